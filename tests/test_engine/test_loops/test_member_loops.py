"""Evaluation of members against the toolbox's own, and of those that predict nothing."""

from mmengine.runner import Runner


def evaluator_of(cfg):
    cfg.custom_hooks = []
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook')  # there is no best of an evaluation
    runner = Runner.from_cfg(cfg)
    runner.model.init_weights()
    return runner


def evaluated(cfg):
    return evaluator_of(cfg).val()


def test_no_detection_of_any_member_is_a_figure_of_0(toolkit, data, tmp_path):
    """CocoMetric gives nothing then, in a training's first epochs for instance."""
    cfg = toolkit.small_config(data, tmp_path)
    for member in cfg.model.members.values():
        member.options['test_cfg.score_thr'] = 0.9
    coco = cfg.val_evaluator.to_dict()
    cfg.val_evaluator = [coco, dict(type='mmkd.PolypDetMetric', ann_file=coco['ann_file'])]
    metrics = evaluated(cfg)
    for member in ('teacher', 'student1', 'student2', 'ensemble'):
        assert metrics[f'{member}/coco/bbox_mAP'] == metrics[f'{member}/polyp/recall'] == 0
    assert metrics['ensemble/agreement'] == 100  # on no boxes
    cfg.val_evaluator, cfg.experiment_name = coco, f'{cfg.experiment_name}_alone'
    metrics = evaluated(cfg)
    for member in ('teacher', 'student1', 'student2', 'ensemble'):
        assert metrics[f'{member}/coco/bbox_mAP'] == metrics[f'{member}/coco/bbox_mAP_50'] == 0


def test_members_have_the_figures_of_a_plain_validation(toolkit, data, tmp_path):
    cfg = toolkit.small_config(data, tmp_path)
    coco = cfg.val_evaluator.to_dict()
    cfg.val_evaluator = [coco, dict(type='mmkd.PolypDetMetric', ann_file=coco['ann_file'])]
    runner = evaluator_of(cfg)
    metrics = runner.val()
    toolkit.check_figures(runner, metrics, ('teacher', 'student1', 'student2'))
    assert metrics['student1/polyp/best_f1'] > 0 and 'ensemble/coco/bbox_mAP' in metrics


def test_agreement_is_that_of_the_ensembles_members(toolkit, data, tmp_path, monkeypatch):
    """Of each pair and image once; of one network twice it is whole."""
    cfg = toolkit.small_config(data, tmp_path)
    runner = evaluator_of(cfg)
    model, seen = runner.model, []
    assert model.ensemble_members == ['student1', 'student2']

    def agreement(one, other):
        seen.append((one.img_id, other.img_id))
        return 0.25 if len(seen) == 1 else 1.0

    monkeypatch.setattr(model.ensemble, 'agreement', agreement)
    metrics = runner.val()
    images = len(runner.val_dataloader.dataset)
    assert len(seen) == images and all(one == other for one, other in seen)
    assert metrics['ensemble/agreement'] == 100 * (images - 0.75) / images
    monkeypatch.setattr(model.ensemble, 'agreement', lambda one, other: None)
    assert 'ensemble/agreement' not in runner.val()
