from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mmkd.apis.export import export_member
from mmkd.registry import HOOKS
from mmkd.utils.checks import choose


@HOOKS.register_module()
class BestMemberHook(Hook):
    """Export each member's plain checkpoint and config whenever its own metric is the best so far.

    Files: `<work_dir>/best_members/<member>.pth` and `.py`. Runs before mmengine's EMAHook swaps the averaged weights out
    again, so that what is written is what was measured.

    Args:
        metric (str): Name of the metric without the member: `coco/bbox_mAP`.
        rule (str): `greater` or `less` is better. Default: `greater`.
    """

    priority = 'HIGH'

    def __init__(self, metric, rule='greater'):
        if rule not in ('greater', 'less'):
            raise ValueError(f"BestMemberHook.rule: expected 'greater' or 'less', got {rule!r}")
        self.metric, self.sign = metric, 1 if rule == 'greater' else -1

    @master_only
    def after_val_epoch(self, runner, metrics=None):
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        best = dict(runner.message_hub.get_info('best_members', {}))
        for name, member in model.plans.items() if metrics else ():
            key = f'{name}/{self.metric}'
            choose(key, sorted(metrics), 'BestMemberHook.metric')
            score = float(metrics[key])
            if member.training == 'frozen' or (name in best and self.sign * score <= self.sign * best[name]):
                continue
            best[name] = score
            state = {f'members.{name}.{k}': v for k, v in model.network(name).state_dict().items()}
            export_member(runner.cfg, state, name, Path(runner.work_dir) / 'best_members' / f'{name}.pth',
                          runner.val_dataloader.dataset.metainfo)
        runner.message_hub.update_info('best_members', best)
