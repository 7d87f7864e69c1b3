"""Links on unlabeled images: which forwards they need, what they teach, what stays as it was."""

import copy
import itertools

import pytest
import torch

pytest.importorskip('mmseg')
from mmengine.registry import DefaultScope  # noqa: E402

from mmkd.models.views import SameView, StrongView  # noqa: E402
from mmkd.utils.errors import ConfigError  # noqa: E402

COUNTER = itertools.count()
SAME = dict(type='SameView')
PREPROCESSOR = dict(
    type='SegDataPreProcessor', size=(32, 32), mean=[120.0] * 3, std=[60.0] * 3, _scope_='mmseg'
)


@pytest.fixture(autouse=True)
def mmseg_scope(fresh_state):
    DefaultScope.get_instance(f'unlabeled-{next(COUNTER)}', scope_name='mmseg')


def unet(**kwargs):
    backbone = dict(
        type='UNet',
        base_channels=4,
        num_stages=2,
        strides=(2, 1),
        enc_num_convs=(1, 1),
        dec_num_convs=(1,),
        downsamples=(True,),
        enc_dilations=(1, 1),
        dec_dilations=(1,),
    )
    head = dict(
        type='FCNHead',
        in_channels=4,
        in_index=1,
        channels=4,
        num_convs=1,
        concat_input=False,
        num_classes=2,
        dropout_ratio=0.5,
        align_corners=False,
    )
    model = dict(
        type='EncoderDecoder',
        backbone=backbone,
        decode_head=head,
        data_preprocessor={k: v for k, v in PREPROCESSOR.items() if k != '_scope_'},
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
        _scope_='mmseg',
    )
    return dict(dict(config=model), **kwargs)


def make(toolkit, **kwargs):
    kwargs.setdefault('members', dict(student1=unet(seed=1), student2=unet(seed=2)))
    return toolkit.make_distiller(data_preprocessor=dict(PREPROCESSOR), **kwargs)


def images(n=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(0, 256, (3, 32, 32), generator=generator, dtype=torch.uint8) for _ in range(n)
    ]


def make_batch(unlabeled=True, same=False):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    def samples(n):
        size = dict(img_shape=(32, 32), ori_shape=(32, 32), pad_shape=(32, 32))
        return [SegDataSample(metainfo=size) for _ in range(n)]

    batch = dict(inputs=images(), data_samples=samples(3))
    for image, sample in zip(batch['inputs'], batch['data_samples']):
        sample.gt_sem_seg = PixelData(data=(image[:1] > 127).long())
    if unlabeled:
        inputs = images() if same else images(4, seed=1)
        batch['unlabeled'] = dict(inputs=inputs, data_samples=samples(len(inputs)))
    return batch


def losses_of(model, batch):
    return model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')


def touched(model):
    names = []
    for name, network in model.members.items():
        if any(p.grad is not None and p.grad.any() for p in network.parameters()):
            names.append(name)
    return names


def test_a_labeled_batch_given_as_unlabeled_equals_mutual_learning(toolkit):
    """One view, the same images: CPS with mutual learning's loss is mutual learning."""
    kl = dict(type='KLDivergence')
    members = dict(
        student1=unet(seed=1, options={'decode_head.dropout_ratio': 0.0}),
        student2=unet(seed=2, options={'decode_head.dropout_ratio': 0.0}),
    )
    labeled = make(toolkit, members=members, sharing=dict(type='ml_p'))
    cfg = dict(type='cps', prediction=kl)
    unlabeled = make(toolkit, members=members, sharing=cfg, strong_view=SAME)
    one = losses_of(labeled, make_batch(unlabeled=False))
    other = losses_of(unlabeled, make_batch(same=True))
    for source, target in (('student1', 'student2'), ('student2', 'student1')):
        expected = one[f'{target}/loss_ml[{source}:prediction]']
        found = other[f'{target}/loss_cps_unlabeled[{source}:prediction]']
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    'preset, terms, weak, strong',
    [
        ('cps', ['cps_unlabeled[student2:prediction]'], [], ['student1', 'student2']),
        ('mean_teacher', ['ema_unlabeled[student1_ema:prediction]'], ['ema'], ['student1']),
        (
            'peers_ema',
            [
                'cps_unlabeled[student2:prediction]',
                'ema_unlabeled[student1_ema+student2_ema:prediction]',
            ],
            ['ema'],
            ['student1', 'student2'],
        ),
        ('fixmatch', ['self_unlabeled[student1:prediction]'], ['student1'], ['student1']),
    ],
)
def test_presets(toolkit, preset, terms, weak, strong):
    model = make(toolkit, sharing=preset)
    for link in model.links:
        assert link.loss.mode == ('soft' if preset == 'mean_teacher' else 'hard')
        assert link.loss.threshold == (0.95 if preset == 'fixmatch' else 0.0)
        link.loss.threshold = 0.0  # nobody is sure yet
    losses = losses_of(model, make_batch())
    own = [key for key in losses if key.startswith('student1/') and '[' in key]
    assert sorted(own) == sorted(f'student1/loss_{term}' for term in terms)
    assert all(losses[key] > 0 for key in own)
    needed = model.links.needed(list(model.links), 0)
    expected = {'student1_ema', 'student2_ema'} if weak == ['ema'] else set()
    expected = expected or ({'student1', 'student2'} if weak else set())
    assert set(needed['weak']) == expected
    assert set(needed['strong']) == {'student1', 'student2'}
    sum(losses[key] for key in own).backward()
    assert touched(model) == ['student1']


@pytest.mark.parametrize(
    'on, terms',
    [(None, ['ema_unlabeled']), ('both', ['ema', 'ema_unlabeled']), ('labeled', ['ema'])],
)
def test_a_preset_for_unlabeled_images_acts_where_it_is_told(toolkit, on, terms):
    model = make(toolkit, sharing=dict(type='mean_teacher', on=on))
    losses = losses_of(model, make_batch())
    own = sorted(key for key in losses if key.startswith('student1/') and '[' in key)
    assert own == [f'student1/loss_{term}[student1_ema:prediction]' for term in terms]


@pytest.mark.parametrize('preset', ['individual', 'ml_p', 'cps'])
def test_a_wrong_kind_of_images_is_refused_even_without_links(toolkit, preset):
    with pytest.raises(ConfigError, match="model.sharing.on: .*did you mean 'unlabeled'"):
        make(toolkit, sharing=dict(type=preset, on='unlabelled'))


def test_nobody_learns_from_oneself_on_labeled_images(toolkit):
    message = "model.sharing.on: fixmatch is for 'unlabeled' images.*got 'both'"
    with pytest.raises(ConfigError, match=message):
        make(toolkit, sharing=dict(type='fixmatch', on='both'))


def test_averages_are_members_and_measured_but_not_in_the_ensemble(toolkit):
    model = make(toolkit, sharing='peers_ema')
    assert model.ensemble_members == ['student1', 'student2']
    assert model.evaluated == ['student1_ema', 'student2_ema', 'student1', 'student2', 'ensemble']


def test_each_member_runs_once_a_view(toolkit):
    model = make(toolkit, sharing='peers_ema')
    calls = []
    for name in model.specs:
        model.network(name).backbone.register_forward_pre_hook(
            lambda m, args, name=name: calls.append((name, len(args[0]), m.training))
        )
    losses_of(model, make_batch())
    expected = [(f'student{i}', n, True) for i in (1, 2) for n in (3, 4)]
    expected += [(f'student{i}_ema', 4, False) for i in (1, 2)]
    assert sorted(calls) == sorted(expected)


def test_unlabeled_views_leave_running_statistics_alone(toolkit):
    """Only labeled images move a trained member's batch norm."""
    model = make(toolkit, sharing='fixmatch')
    norm = next(m for m in model.network('student1').modules() if hasattr(m, 'running_mean'))
    losses_of(model, make_batch())
    assert norm.num_batches_tracked == 1 and norm.track_running_stats


def test_without_active_links_nothing_runs_on_unlabeled_images(toolkit):
    schedule = dict(type='Step', milestones=[0.5], values=[0.0, 1.0])
    plain = make(toolkit, sharing=None)
    model = make(toolkit, sharing=dict(type='cps', schedule=schedule))
    model.progress = 0.25
    one, other = losses_of(plain, make_batch(False)), losses_of(model, make_batch())
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=0, atol=0)
    assert all(value == 0 for key, value in other.items() if '[' in key)


def test_a_missing_loader_is_named(toolkit):
    model = make(toolkit, sharing='cps')
    with pytest.raises(ConfigError, match='unlabeled_dataloader: .* must be given'):
        losses_of(model, make_batch(unlabeled=False))


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(on='unlabelled'), "on: unknown name 'unlabelled'; did you mean 'unlabeled'"),
        (dict(source_view='srtong'), "source_view: unknown name 'srtong'; did you mean 'strong'"),
        (
            dict(on='unlabeled', guard='mute'),
            "guard: .*act on='labeled' or 'both', got 'unlabeled'",
        ),
        (dict(on='both', guard='project'), "guard: 'project' .*must act on='labeled', got 'both'"),
        (dict(on='unlabeled', loss=dict(type='DKD')), r'DKD needs labels \(data_samples\)'),
        (dict(source='student1', on='labeled'), "source and target are both 'student1'"),
    ],
)
def test_wrong_links_are_refused(toolkit, changes, message):
    link = dict(source='student2', target='student1')
    with pytest.raises(ConfigError, match=message):
        make(toolkit, links=[{**link, **changes}])


def test_on_both_gives_a_term_for_each_batch(toolkit):
    link = dict(source='student2', target='student1', on='both', source_view='strong')
    model = make(toolkit, links=[link])
    losses = losses_of(model, make_batch())
    keys = [key for key in losses if '[' in key]
    assert keys == [
        'student1/loss_kd[student2:prediction]',
        'student1/loss_kd_unlabeled[student2:prediction]',
    ]


def test_a_guard_on_both_compares_on_labeled_images_and_mutes_both(toolkit):
    guard = dict(type='NegativeTransferGuard', first=1)
    link = dict(source='student2', target='student1', on='both', source_view='strong', guard=guard)
    model = make(toolkit, links=[link])
    only = next(iter(model.links))
    keys = [
        'student1/loss_kd[student2:prediction]',
        'student1/loss_kd_unlabeled[student2:prediction]',
    ]
    alone = make(toolkit, links=[dict(link, on='labeled')])
    torch.manual_seed(0)
    expected = losses_of(alone, make_batch())['student1/cosine_kd[student2:prediction]']
    torch.manual_seed(0)
    losses = losses_of(model, make_batch())
    torch.testing.assert_close(losses['student1/cosine_kd[student2:prediction]'], expected)
    for cosine, muted in ((-0.5, True), (0.5, False)):
        only.guard.load_state_dict({'means': torch.tensor([100.0, 1.0, 1.0, cosine, 100.0])})
        losses = losses_of(model, make_batch())
        assert [bool(losses[key] == 0) for key in keys] == [muted, muted]
    only.guard.load_state_dict({'means': torch.tensor([100.0, 1.0, 1.0, -0.5, 100.0])})
    assert model.links.active(0.5, iteration=1) == []  # muted, and no measurement is due


def test_strong_views_repeat_and_leave_other_streams_alone(toolkit):
    """The view draws from its own stream: repeatable by seed, and dropout draws as without it."""
    torch.manual_seed(3)
    one = make(toolkit, sharing='cps')
    torch.manual_seed(3)
    other = make(toolkit, sharing='cps')
    first, second = losses_of(one, make_batch()), losses_of(other, make_batch())
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=0, atol=0)


def test_each_rank_draws_views_of_its_own(toolkit, monkeypatch):
    drawn = []
    for rank in (0, 1):
        monkeypatch.setattr('mmkd.models.distillers.online_distiller.get_rank', lambda r=rank: r)
        torch.manual_seed(3)
        drawn.append(make(toolkit, sharing='cps').strongly(torch.rand(2, 3, 64, 64)).inputs)
    assert not torch.equal(*drawn)


def test_the_same_view_is_the_weak_one(toolkit):
    inputs = torch.rand(2, 3, 8, 8)
    changed = SameView()(inputs, torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    assert changed.inputs is inputs and changed.move(inputs) is inputs
    members = dict(teacher=dict(training='ema', of='student1'), student1=unet(seed=1))
    model = make(toolkit, members=members, sharing=dict(type='kd_p', on='both'), strong_view=SAME)
    seen = []
    for name in members:
        backbone = model.network(name).backbone
        backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    losses_of(model, make_batch())
    assert sorted(map(len, seen)) == [3, 3, 4, 4]
    unlabeled = [images for images in seen if len(images) == 4]
    assert torch.equal(*unlabeled)


def test_cutmix_moves_predictions_along_with_the_image():
    torch.manual_seed(0)
    view = StrongView(jitter=0, gray=0, blur=0, cutmix=1.0)
    inputs = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 32, 32).contiguous()
    changed = view(inputs, torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    moved = changed.move(inputs[:, :1, ::2, ::2].contiguous())
    torch.testing.assert_close(moved, changed.inputs[:, :1, ::2, ::2])
    own = (changed.inputs == inputs).float().mean((1, 2, 3))
    assert ((own > 0.3) & (own < 1)).all()
    with pytest.raises(ConfigError, match=r'cutmix: needs taps that give maps .*, got \(4, 2\)$'):
        changed.move(torch.zeros(4, 2))


def test_cutmix_of_what_is_no_map_is_refused_at_build(toolkit):
    pytest.importorskip('mmpretrain')
    import distributed_worker

    DefaultScope.get_instance(f'unlabeled-{next(COUNTER)}', scope_name='mmpretrain')
    cfg = distributed_worker.classification('mean_teacher')
    cfg['strong_view'] = dict(type='StrongView', cutmix=0.5)
    message = r"cutmix: needs taps that give maps .*'prediction' of model.sharing \(mean_teacher\)"
    with pytest.raises(ConfigError, match=message):
        toolkit.make_distiller(**cfg)
    cfg['sharing']['type'] = 'cps'  # sources see the strong view: nothing is moved
    toolkit.make_distiller(**cfg)


def test_color_changes_keep_shape_and_positions():
    torch.manual_seed(0)
    view = StrongView()
    mean, std = torch.full((3, 1, 1), 120.0), torch.full((3, 1, 1), 60.0)
    inputs = (torch.rand(2, 3, 16, 16) * 255 - mean) / std
    changed = view(inputs, mean, std)
    value = torch.rand(2, 2, 4, 4)
    assert changed.inputs.shape == inputs.shape and changed.move(value) is value
    assert not torch.equal(changed.inputs, inputs)
    low, high = (0 - mean) / std, (255 - mean) / std
    assert (changed.inputs >= low - 1e-4).all() and (changed.inputs <= high + 1e-4).all()


@pytest.mark.parametrize('in_turns', [False, True])
@pytest.mark.parametrize('sharing', ['cps', 'mean_teacher'])
def test_checkpointed_members_learn_from_unlabeled_images(toolkit, sharing, in_turns):
    """The second computation normalizes as the first one did, and moves no statistics."""
    states = []
    for checkpointing in (False, ['backbone']):
        first = unet(
            seed=1, checkpointing=checkpointing, options={'decode_head.dropout_ratio': 0.0}
        )
        members = dict(student1=first, student2=unet(seed=2))
        model = make(toolkit, members=members, sharing=sharing, in_turns=in_turns)
        torch.manual_seed(0)
        model.train_step(make_batch(), toolkit.optim_wrapper(model))
        states.append(model.state_dict())
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, msg=lambda m, key=key: f'{key}: {m}')


def test_taps_that_see_calls_of_forward_survive_copies_and_compilation(toolkit, tmp_path):
    """As of MMSegmentation's decode heads, which no hook sees."""
    state = make(toolkit, sharing=None).network('student1').state_dict()
    torch.save(state, tmp_path / 't.pth')
    frozen = unet(seed=1, training='frozen', checkpoint=str(tmp_path / 't.pth'))
    link = dict(source='teacher', target='student1', tap='decode_head', loss='KLDivergence')
    for compile in (False, dict(backend='eager')):
        members = dict(teacher=frozen, student1=unet(seed=2))
        model = make(toolkit, members=members, links=[link], compile=compile)
        for one in (model, copy.deepcopy(model)):
            assert losses_of(one, make_batch(False))['student1/loss_kd[teacher:decode_head]'] > 0
