import numpy as np
import pytest
import torch
from scipy import special

from mmkd.models.combiners import MeanLogits, MeanProbability
from mmkd.models.losses import DenseDetectionLoss, KLDivergence
from mmkd.registry import MODELS
from mmkd.tasks.detection.structures import DensePrediction


def sources(shape, n=3):
    generator = torch.Generator().manual_seed(0)
    return [3 * torch.randn(shape, generator=generator) for _ in range(n)]


def dense(seed, objectness=True, n=2, p=5, c=2):
    generator = torch.Generator().manual_seed(seed)
    corner = 20 * torch.rand(n, p, 2, generator=generator)
    return DensePrediction(
        3 * torch.randn(n, p, c, generator=generator),
        3 * torch.randn(n, p, generator=generator) if objectness else None,
        torch.cat([corner, corner + 5], -1),
    )


@pytest.mark.parametrize('shape', [(4, 3), (2, 3, 4, 4), (4, 1), (2, 1, 4, 4)])
@pytest.mark.parametrize('tau', [1.0, 4.0])
@pytest.mark.parametrize('mode', ['auto', 'sigmoid'])
def test_a_loss_with_the_same_tau_sees_the_mean_probability(shape, tau, mode):
    values = sources(shape)
    combined = MODELS.build(dict(type='mmkd.MeanProbability', tau=tau, mode=mode))(
        values, torch.zeros(shape)
    )
    form = (
        special.expit
        if mode == 'sigmoid' or shape[1] == 1
        else lambda x: special.softmax(x, axis=1)
    )
    expected = np.mean([form(v.double().numpy() / tau) for v in values], axis=0)
    np.testing.assert_allclose(form(combined.numpy() / tau), expected, rtol=1e-4)
    loss = KLDivergence(tau=tau, mode=mode)
    assert loss(combined, combined.clone()) == 0 and loss(torch.zeros(shape), combined) > 0.01


@pytest.mark.parametrize('combiner', [MeanProbability(), MeanLogits()])
def test_one_source_is_itself_and_far_logits_stay_finite(combiner):
    value = sources((4, 3))[0]
    combined = combiner([value], value)
    torch.testing.assert_close(combined.softmax(1), value.softmax(1))
    far = torch.tensor([[1e4, -1e4]])
    assert combiner([far, -far], far).isfinite().all()
    torch.testing.assert_close(combiner([far, -far], far).softmax(1), torch.full((1, 2), 0.5))


def test_mean_logits():
    values = sources((2, 3, 4, 4))
    torch.testing.assert_close(MeanLogits()(values, values[0]), sum(values) / 3)


@pytest.mark.parametrize('combiner', [MeanProbability(), MeanLogits()])
def test_maps_are_brought_to_the_targets_size(combiner):
    values = sources((2, 3, 4, 4))
    expected = combiner(values, values[0])
    values[1] = values[1].repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(combiner(values, values[0]), expected)


@pytest.mark.parametrize('combiner', [MeanProbability(), MeanLogits()])
def test_half_precision_is_combined_in_float32(combiner):
    values = [v.bfloat16() for v in sources((4, 3))]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        combined = combiner(values, values[0])
    assert combined.dtype == torch.float32
    assert torch.equal(combined, combiner([v.float() for v in values], values[0]))


@pytest.mark.parametrize('heads', [(True, True, True), (False, False, False), (True, False, True)])
def test_mean_of_dense_predictions(heads):
    values = [dense(seed, objectness) for seed, objectness in enumerate(heads)]
    combined = MeanProbability()(values, values[0])

    def joint(prediction):
        p = special.expit(prediction.cls_logits.double().numpy())
        if prediction.obj_logits is None:
            return p
        return p * special.expit(prediction.obj_logits.double().numpy())[..., None]

    expected = np.mean([joint(v) for v in values], axis=0)
    np.testing.assert_allclose(joint(combined), expected, rtol=1e-4)
    assert (combined.obj_logits is not None) == all(heads)
    if all(heads):
        mean = np.mean([special.expit(v.obj_logits.double().numpy()) for v in values], axis=0)
        np.testing.assert_allclose(special.expit(combined.obj_logits.numpy()), mean, rtol=1e-4)
    weights = np.stack([v.scores.numpy() for v in values])[..., None]
    boxes = (np.stack([v.boxes.numpy() for v in values]) * weights).sum(0) / weights.sum(0)
    np.testing.assert_allclose(combined.boxes.numpy(), boxes, rtol=1e-4)
    assert DenseDetectionLoss()(dense(9, heads[0]), combined).isfinite()


def test_boxes_that_are_not_finite_have_no_share():
    values = [dense(0), dense(1)]
    values[1].boxes[0, 0, 2] = float('inf')
    for combiner in (MeanProbability(), MeanLogits()):
        combined = combiner(values, values[0])
        torch.testing.assert_close(combined.boxes[0, 0], values[0].boxes[0, 0])
        assert combined.boxes.isfinite().all()


@pytest.mark.parametrize('combiner', [MeanProbability(), MeanLogits()])
def test_masks_have_the_mean_of_their_logits(combiner):
    at = torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([0, 0])
    values = [dense(0), dense(1)]
    values[0].masks = lambda images, places, labels: places.float().reshape(2, 1, 1)
    assert combiner(values, values[0]).masks is None
    values[1].masks = lambda images, places, labels: images.float().reshape(2, 1, 1)
    assert combiner(values, values[0]).masks(*at).flatten().tolist() == [1, 2]


def test_mean_logits_of_dense_predictions():
    values = [dense(0), dense(1)]
    combined = MeanLogits()(values, values[0])
    torch.testing.assert_close(
        combined.cls_logits, (values[0].cls_logits + values[1].cls_logits) / 2
    )
    torch.testing.assert_close(
        combined.obj_logits, (values[0].obj_logits + values[1].obj_logits) / 2
    )
    with pytest.raises(ValueError, match='some sources have an objectness, others none'):
        MeanLogits()([dense(0), dense(1, objectness=False)], values[0])


@pytest.mark.parametrize('combiner', [MeanProbability(), MeanLogits()])
def test_sources_that_differ_are_refused(combiner):
    with pytest.raises(ValueError, match=r'sources differ in shape: \(2, 3\), \(2, 4\)'):
        combiner([torch.zeros(2, 3), torch.zeros(2, 4)], torch.zeros(2, 3))
    with pytest.raises(ValueError, match='sources differ in positions or classes'):
        combiner([dense(0), dense(0, p=4)], dense(0))


def test_wrong_arguments():
    with pytest.raises(ValueError, match='tau: expected a positive number, got 0'):
        MeanProbability(tau=0)
    with pytest.raises(ValueError, match="mode: unknown name 'softmx'; did you mean 'softmax'"):
        MeanProbability(mode='softmx')
