import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmkd.models.losses import InheritExploreLoss
from mmkd.registry import MODELS

EXPLORE = ['ft', 'cos', 'cka']


def reference(inherit, explore, source, kind):
    """Both unweighted terms in float64 by loops; factors (N, k, H, W) of one size."""
    inherit, explore, source = (np.asarray(x, dtype=np.float64) for x in (inherit, explore, source))

    def distance(one, other):
        values = []
        for x, y in zip(one, other):
            x, y = x.ravel(), y.ravel()
            values.append(
                np.mean(
                    [
                        abs(a / np.sqrt(np.sum(x**2)) - b / np.sqrt(np.sum(y**2)))
                        for a, b in zip(x, y)
                    ]
                )
            )
        return np.mean(values)

    if kind == 'ft':
        away = 2 / np.sqrt(explore[0].size) - distance(explore, source)
    elif kind == 'cos':
        away = np.mean(
            [
                abs(np.sum(x * y)) / np.sqrt(np.sum(x**2) * np.sum(y**2))
                for x, y in zip(explore, source)
            ]
        )
    else:  # by Gram matrices of the positions: another way than the loss's
        examples = [
            np.stack(
                [
                    x[i, :, a, b]
                    for i in range(x.shape[0])
                    for a in range(x.shape[2])
                    for b in range(x.shape[3])
                ]
            )
            for x in (explore, source)
        ]
        count = len(examples[0])
        centre = np.eye(count) - np.ones((count, count)) / count
        one, other = (centre @ x @ x.T @ centre for x in examples)
        away = np.sum(one * other) / np.sqrt(np.sum(one * one) * np.sum(other * other))
    return distance(inherit, source), away


def factors(shape=(3, 4, 3, 2), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) + 0.3 for _ in range(3)]


def compute(loss, inherit, explore, source):
    return loss(dict(inherit=inherit, explore=explore), source)


@pytest.mark.parametrize('explore', EXPLORE)
@pytest.mark.parametrize('shape', [(3, 4, 3, 2), (1, 5, 2, 2), (4, 2, 1, 3)])
def test_values_are_the_references(explore, shape):
    sides = factors(shape)
    terms = compute(
        MODELS.build(
            dict(
                type='mmkd.InheritExploreLoss', inherit_weight=3, explore_weight=7, explore=explore
            )
        ),
        *sides,
    )
    expected = reference(*sides, explore)
    assert list(terms) == ['inherit', 'explore'] and all(
        v.shape == () and v.dtype == torch.float32 for v in terms.values()
    )
    np.testing.assert_allclose(terms['inherit'].item(), 3 * expected[0], rtol=1e-5)
    np.testing.assert_allclose(terms['explore'].item(), 7 * expected[1], rtol=1e-4)


@pytest.mark.parametrize('explore', EXPLORE)
@pytest.mark.parametrize('part', ['inherit', 'explore'])
def test_the_gradient_is_that_of_the_reference(explore, part):
    sides = dict(zip(('inherit', 'explore', 'source'), factors((2, 3, 2, 2))))
    x = sides[part].clone().requires_grad_()
    terms = compute(InheritExploreLoss(100, 100, explore), **dict(sides, **{part: x}))
    terms[part].backward()
    numerical, step = np.zeros(x.shape), 1e-6
    for index in np.ndindex(*x.shape):
        values = []
        for sign in (1, -1):
            moved = sides[part].double().numpy().copy()
            moved[index] += sign * step
            values.append(
                reference(kind=explore, **dict(sides, **{part: moved}))[part == 'explore']
            )
        numerical[index] = 100 * (values[0] - values[1]) / (2 * step)
    np.testing.assert_allclose(x.grad.numpy(), numerical, rtol=2e-3, atol=1e-4)


def test_the_scale_that_makes_the_weight():
    """2 / sqrt(D) at most, 0.044 for the usual 32 x 8 x 8 numbers: weight 1 does nothing."""
    source = torch.ones(2, 32, 8, 8)
    terms = compute(InheritExploreLoss(1, 1), -source, source, source)
    assert (
        terms['inherit'].item()
        == pytest.approx(2 / (32 * 8 * 8) ** 0.5)
        == pytest.approx(0.0442, abs=1e-4)
    )
    assert compute(InheritExploreLoss(), -source, source, source)[
        'inherit'
    ].item() == pytest.approx(500 * 0.0442, rel=1e-2)
    assert (
        InheritExploreLoss().explore_weight,
        InheritExploreLoss(explore='cos').explore_weight,
    ) == (500, 10)


def descend(explore, steps=400):
    """Where exploring from the same start ends, as vectors of length 1."""
    torch.manual_seed(0)
    source = torch.randn(1, 4, 3, 3)
    x = torch.randn(1, 4, 3, 3, requires_grad=True)
    optimizer = torch.optim.Adam([x], lr=0.05)
    loss = InheritExploreLoss(explore=explore)
    for _ in range(steps):
        optimizer.zero_grad()
        compute(loss, source, x, source)['explore'].backward()
        optimizer.step()
    return F.normalize(x.detach().flatten(), dim=0), F.normalize(source.flatten(), dim=0)


def test_where_exploration_ends():
    """-FT drives far away, to where all numbers are alike in size; |cos| to orthogonality."""
    x, source = descend('ft')
    assert torch.allclose(x.abs(), torch.tensor(1 / 6), atol=0.01)
    assert -0.99 < x @ source < -0.6
    x, source = descend('cos')
    assert abs(x @ source) < 0.1


@pytest.mark.parametrize('explore', EXPLORE)
def test_batch_size_and_scale_leave_the_values(explore):
    sides = factors()
    loss = InheritExploreLoss(explore=explore)
    terms = compute(loss, *sides)
    torch.testing.assert_close(compute(loss, *(x.repeat(3, 1, 1, 1) for x in sides)), terms)
    torch.testing.assert_close(compute(loss, *(x * f for x, f in zip(sides, (3, 20, 0.2)))), terms)


@pytest.mark.parametrize('explore', EXPLORE)
@pytest.mark.parametrize('max_size, pooled', [(16, (16, 12)), (8, (8, 8))])
def test_factors_are_pooled_so_that_resolution_leaves_the_values(explore, max_size, pooled):
    sides = factors((2, 3, *pooled))
    loss = InheritExploreLoss(explore=explore, max_size=max_size)
    terms = compute(loss, *sides)
    large = [
        x.repeat_interleave(2, 2).repeat_interleave(2 if pooled[1] == max_size else 1, 3)
        for x in sides
    ]
    torch.testing.assert_close(compute(loss, *large), terms)


def test_sides_of_other_sizes_are_brought_to_the_sources():
    inherit, explore, source = factors((2, 3, 4, 4))
    loss = InheritExploreLoss()
    for size in ((8, 8), (2, 2), (4, 6)):
        other = [
            F.adaptive_avg_pool2d(x, source.shape[-2:])
            if size[1] > 4
            else F.interpolate(x, size=source.shape[-2:], mode='bilinear')
            for x in factors((2, 3, *size), seed=1)[:2]
        ]
        torch.testing.assert_close(
            compute(loss, *factors((2, 3, *size), seed=1)[:2], source),
            compute(loss, *other, source),
        )


@pytest.mark.parametrize('explore', EXPLORE)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_compared_in_float32(explore, dtype):
    sides = factors((2, 4, 4, 4))
    loss = InheritExploreLoss(explore=explore)
    full = compute(loss, *sides)
    halves = [x.to(dtype).requires_grad_() for x in sides]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        terms = compute(loss, *halves[:2], halves[2].detach())
    sum(terms.values()).backward()
    assert terms == compute(loss, *(x.float() for x in halves))
    for key, value in terms.items():
        assert value.dtype == torch.float32 and value.item() == pytest.approx(
            full[key].item(), rel=0.05
        )
    assert all(
        x.grad.dtype == dtype and x.grad.isfinite().all() and x.grad.any() for x in halves[:2]
    )


@pytest.mark.parametrize('explore', EXPLORE)
@pytest.mark.parametrize('scale', [0, 1e-4, 1e4])
def test_dead_and_extreme_factors(explore, scale):
    inherit, away, source = factors((2, 4, 3, 3))
    inherit, away = (inherit * scale).requires_grad_(), (away * scale).requires_grad_()
    terms = compute(InheritExploreLoss(explore=explore), inherit, away, source)
    sum(terms.values()).backward()
    assert (
        all(value.isfinite() for value in terms.values())
        and inherit.grad.isfinite().all()
        and away.grad.isfinite().all()
    )
    silent = compute(InheritExploreLoss(explore=explore), inherit, away, torch.zeros_like(source))
    assert all(value.isfinite() for value in silent.values())


def test_a_weight_of_zero_takes_one_half_away_and_leaves_it_in_the_graph():
    for name in ('inherit', 'explore'):
        sides = [x.requires_grad_() for x in factors()]
        terms = compute(
            InheritExploreLoss(**{f'{name}_weight': 0}), sides[0], sides[1], sides[2].detach()
        )
        sum(terms.values()).backward()
        off, on = (sides[0], sides[1]) if name == 'inherit' else (sides[1], sides[0])
        assert terms[name] == 0 and off.grad is not None and not off.grad.any() and on.grad.any()


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(explore='cosine'), "explore: unknown name 'cosine'; did you mean 'cos'"),
        (dict(inherit_weight=-1), 'inherit_weight: expected a number >= 0, got -1'),
        (dict(explore_weight='x'), "explore_weight: expected a number >= 0, got 'x'"),
        (dict(max_size=0), 'max_size: expected an integer >= 1, got 0'),
    ],
)
def test_wrong_arguments(cfg, message):
    with pytest.raises(ValueError, match=message):
        InheritExploreLoss(**cfg)


def test_what_is_no_pair_of_factors_is_refused():
    inherit, explore, source = factors()
    with pytest.raises(ValueError, match="expected factors: connector=dict.type='InheritExplore'"):
        InheritExploreLoss()(inherit, source)
    with pytest.raises(
        ValueError, match=r'factors differ in shape: explore \(3, 2, 3, 2\), source \(3, 4, 3, 2\)'
    ):
        compute(InheritExploreLoss(), inherit, explore[:, :2], source)
