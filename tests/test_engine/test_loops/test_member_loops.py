"""Evaluation of members that predict nothing."""

from mmengine.runner import Runner


def evaluated(cfg):
    cfg.custom_hooks = []
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook')  # there is no best of an evaluation
    runner = Runner.from_cfg(cfg)
    runner.model.init_weights()
    return runner.val()


def test_no_detection_of_any_member_beside_a_metric_that_has_figures(toolkit, data, tmp_path):
    """CocoMetric gives nothing then, in a training's first epochs for instance."""
    cfg = toolkit.small_config(data, tmp_path)
    for member in cfg.model.members.values():
        member.options['test_cfg.score_thr'] = 0.9
    coco = cfg.val_evaluator.to_dict()
    cfg.val_evaluator = [coco, dict(type='mmkd.PolypDetMetric', ann_file=coco['ann_file'])]
    metrics = evaluated(cfg)
    for member in ('teacher', 'student1', 'student2', 'ensemble'):
        assert metrics[f'{member}/coco/bbox_mAP'] == metrics[f'{member}/polyp/recall'] == 0
    cfg.val_evaluator, cfg.experiment_name = coco, f'{cfg.experiment_name}_alone'
    assert evaluated(cfg) == {}
