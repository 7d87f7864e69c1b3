import types

import pytest
import torch
from light_training import light_config
from mmengine.runner import Runner

from mmkd.engine.hooks import MemberHook
from mmkd.utils.errors import ConfigError


def loop(**metainfo):
    dataset = types.SimpleNamespace(metainfo=metainfo)
    return types.SimpleNamespace(dataloader=types.SimpleNamespace(dataset=dataset))


@pytest.fixture
def runner(toolkit):
    members = toolkit.members(students=1, mean=dict(training='ema', of='student1', momentum=0.5))
    model = toolkit.make_distiller(members=members)
    warnings = []
    return types.SimpleNamespace(
        model=model,
        optim_wrapper=toolkit.optim_wrapper(model, accumulative_counts=2),
        hooks=[],
        logger=types.SimpleNamespace(warning=warnings.append),
        warnings=warnings,
        train_loop=loop(classes=('polyp', 'tool')),
        val_loop=None,
        _resume=True,
    )


def average(runner):
    return next(runner.model.members['mean'].parameters()).clone()


def test_averages_move_once_per_optimizer_step(runner, toolkit):
    hook, seen = MemberHook(), [average(runner)]
    for index in range(4):
        runner.model.train_step(toolkit.make_batch(seed=index), runner.optim_wrapper)
        hook.after_train_iter(runner, index)
        seen.append(average(runner))
    moved = [not torch.equal(one, other) for one, other in zip(seen, seen[1:])]
    assert moved == [False, True, False, True]


def test_accumulating_gradients_are_kept_in_a_checkpoint(runner, toolkit):
    runner.model.train_step(toolkit.make_batch(), runner.optim_wrapper)
    hook, checkpoint = MemberHook(), dict(optimizer={})
    hook.before_saving(runner)
    hook.before_save_checkpoint(runner, checkpoint)
    expected = {n: p.grad.clone() for n, p in runner.model.named_parameters() if p.grad is not None}
    assert expected and checkpoint['mmkd_gradients'].keys() == expected.keys()
    runner.model.zero_grad()
    resumed = MemberHook()
    resumed.after_load_checkpoint(runner, checkpoint)
    resumed.before_train(runner)
    for name, parameter in runner.model.named_parameters():
        assert name not in expected or torch.equal(parameter.grad, expected[name]), name


def test_a_checkpoint_between_steps_holds_no_gradients(runner):
    checkpoint = dict(optimizer={})
    MemberHook().before_save_checkpoint(runner, checkpoint)
    assert 'mmkd_gradients' not in checkpoint


def test_links_with_weights_in_another_order_are_not_resumed(runner, toolkit):
    def model(*taps):
        common = dict(source='teacher', target='student1', loss=dict(type='FeatureMSE'))
        links = [dict(common, tap=tap) for tap in taps]  # with connectors
        return toolkit.make_distiller(members=toolkit.members(students=1), links=links)

    checkpoint = {}
    runner.model = model('neck[0]', 'neck[1]')  # maps of the same channels
    MemberHook().before_save_checkpoint(runner, checkpoint)
    MemberHook().after_load_checkpoint(runner, checkpoint)
    states, runner.model = runner.model.state_dict(), model('neck[1]', 'neck[0]')
    assert states.keys() == runner.model.state_dict().keys(), 'else nothing would be loaded'
    with pytest.raises(ConfigError, match='cannot resume: the links .* or in another order'):
        MemberHook().after_load_checkpoint(runner, checkpoint)


def test_a_frozen_member_whose_file_has_changed_is_not_resumed(runner, toolkit, tmp_path):
    path = tmp_path / 'frozen.pth'
    own = dict(training='frozen', checkpoint=str(path))

    def model(change=0.0):
        state = toolkit.make_distiller(members=dict(a=toolkit.yolox(seed=3))).network('a')
        state = {k: v + change for k, v in state.state_dict().items()}
        meta = dict(dataset_meta=dict(classes=('polyp', 'tool')))
        torch.save(dict(state_dict=state, meta=meta), path)
        return toolkit.make_distiller(members=dict(a=toolkit.yolox(**own), b=toolkit.yolox()))

    checkpoint = {}
    runner.model = model()
    MemberHook().before_save_checkpoint(runner, checkpoint)
    runner.model = model()  # written again, with the same weights
    hook = MemberHook()
    hook.after_load_checkpoint(runner, checkpoint)
    hook.before_train(runner)
    runner.train_loop = loop(classes=('tool', 'polyp'))
    with pytest.raises(ConfigError, match=r"members.a.checkpoint: .*\['polyp', 'tool'\].* order"):
        hook.before_train(runner)
    runner.model = model(change=1e-3)
    with pytest.raises(ConfigError, match='cannot resume: model.members.a.checkpoint: .* other w'):
        MemberHook().after_load_checkpoint(runner, checkpoint)


def test_mmpretrains_one_augmentation_object_is_taken(runner):
    """Its preprocessor keeps `RandomBatchAugment`, which is no list."""
    from mmpretrain.models import RandomBatchAugment

    runner.model.data_preprocessor.batch_augments = RandomBatchAugment(
        dict(type='Mixup', alpha=1.0)
    )
    checkpoint = {}
    MemberHook().before_save_checkpoint(runner, checkpoint)
    assert checkpoint[MemberHook.key]['ranks'][0]['sizes'] == [None]


def test_each_rank_goes_on_from_its_own_random_states(runner, monkeypatch):
    hook, states = MemberHook(), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        checkpoint = {}
        hook.before_save_checkpoint(runner, checkpoint)
        states.append(checkpoint[hook.key]['ranks'][0])
    saved = {hook.key: dict(ranks=states)}
    for rank, seed in ((0, 1), (1, 2)):
        monkeypatch.setattr('mmkd.engine.hooks.member_hook.get_rank', lambda rank=rank: rank)
        monkeypatch.setattr('mmkd.engine.hooks.member_hook.get_world_size', lambda: 2)
        hook.after_load_checkpoint(runner, saved)
        hook.before_train(runner)
        expected = torch.rand(3, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(torch.rand(3), expected)


def test_a_checkpoint_with_the_states_of_rank_0_alone_is_taken(runner):
    hook, checkpoint = MemberHook(), {}
    torch.manual_seed(4)
    hook.before_save_checkpoint(runner, checkpoint)
    expected = torch.rand(3)
    old = {hook.key: {k: v for k, v in checkpoint[hook.key]['ranks'][0].items() if k != 'views'}}
    hook.after_load_checkpoint(runner, old)
    hook.before_train(runner)
    assert torch.equal(torch.rand(3), expected)


def test_images_that_are_not_finite_are_named(runner, toolkit):
    batch = toolkit.make_batch()
    batch['inputs'] = [batch['inputs'][0].float(), batch['inputs'][1].float() * float('nan')]
    batch['data_samples'][1].set_metainfo(dict(img_path='images/broken.png'))
    batch['unlabeled'] = dict(inputs=[torch.tensor([float('inf')])])
    runner.optim_wrapper.skipped = ['student1']
    MemberHook().after_train_iter(runner, 0, batch)
    assert runner.warnings == [
        'image 0 of the batch: its pixels are not finite',
        'images/broken.png: its pixels are not finite',
    ]


def test_links_learn_of_a_validation(runner, monkeypatch):
    told = []
    monkeypatch.setattr(runner.model.links, 'after_validation', told.append)
    metrics, checkpoint = {'student1/coco/bbox_mAP': 0.5}, {}
    hook = MemberHook()
    hook.after_val_epoch(runner, dict(metrics, table=['no number']))
    hook.before_save_checkpoint(runner, checkpoint)
    assert told == [metrics]
    resumed = MemberHook()
    resumed.after_load_checkpoint(runner, checkpoint)
    resumed.before_train(runner)
    assert told == [metrics, metrics]
    MemberHook().after_val_epoch(runner, {})
    assert len(told) == 2


def test_links_begin_anew_from_the_weights_of_another_training(tmp_path):
    """But go on where the training is resumed."""
    rule, guard = dict(type='GradientShare'), dict(mode='mute', interval=1)
    sharing = dict(type='kd_p', weight=rule, guard=guard, only_if_better='accuracy/top1')

    def config(name, **changes):
        cfg = light_config(tmp_path / name, **changes)
        cfg.model.sharing = sharing
        return cfg

    first = Runner.from_cfg(config('first'))
    first.train()
    saved = str(tmp_path / 'first/epoch_2.pth')
    for resume in (False, True):
        runner = Runner.from_cfg(config(f'then{resume}', load_from=saved, resume=resume))
        runner.load_or_resume()
        runner.call_hook('before_train')
        for link, of_first in zip(runner.model.links, first.model.links):
            assert of_first.guard.measurements and of_first.rule.measurements
            for part, other in ((link.rule, of_first.rule), (link.guard, of_first.guard)):
                assert part.measurements == resume * other.measurements
                assert part.means.tolist() == [resume * mean for mean in other.means.tolist()]
            assert link.source_is_worse == (resume and of_first.source_is_worse)


def test_a_member_that_is_not_measured_is_named_before_the_training(tmp_path):
    cfg = light_config(tmp_path, val_cfg=dict(members=['student1', 'student2']))
    cfg.model.sharing = dict(type='kd_p', only_if_better='accuracy/top1')
    with pytest.raises(ConfigError, match="only_if_better: .* of 'teacher' is not measured; expec"):
        Runner.from_cfg(cfg).train()


@pytest.mark.usefixtures('unformatted_configs')
@pytest.mark.parametrize(
    'loop, given, message',
    [
        ('mmkd.ResumableTrainLoop', False, 'unlabeled_dataloader: must be given'),
        ('EpochBasedTrainLoop', True, "train_cfg.type: expected 'mmkd.ResumableTrainLoop'.*got"),
    ],
)
def test_links_on_unlabeled_images_are_told_at_build_that_none_come(
    tmp_path, monkeypatch, loop, given, message
):
    cfg = light_config(tmp_path, **{'model.sharing.type': 'cps', 'train_cfg.type': loop})
    if given:
        cfg.unlabeled_dataloader = cfg.train_dataloader
    runner = Runner.from_cfg(cfg)
    monkeypatch.setattr(runner.model, 'train_step', None)  # it is not reached
    with pytest.raises(ConfigError, match=message):
        runner.train()


@pytest.mark.usefixtures('unformatted_configs')
def test_an_evaluation_leaves_the_training_data_alone(tmp_path):
    """They may not be there where a network is tested."""
    cfg = light_config(tmp_path, **{'train_dataloader.dataset.type': 'NotThere'})
    Runner.from_cfg(cfg).test()
