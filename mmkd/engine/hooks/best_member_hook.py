import datetime
import time
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mmkd.export import export_member
from mmkd.registry import HOOKS
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError
from mmkd.utils.text import align


@HOOKS.register_module()
class BestMemberHook(Hook):
    """Export each member's plain checkpoint and config whenever its own metric is the best so far; sum up at the end.

    Files: `<work_dir>/best_members/<member>.pth` and `.py`. Runs before mmengine's EMAHook swaps the averaged weights out
    again, so that what is written is what was measured. After the training the log says each member's (and the ensemble's) best
    value and its epoch, where the exports lie, and the time taken.

    Args:
        metric (str): Name of the metric without the member: `coco/bbox_mAP`.
        rule (str): `greater` or `less` is better. Default: `greater`.
    """

    priority = 'HIGH'

    def __init__(self, metric, rule='greater'):
        if rule not in ('greater', 'less'):
            raise ConfigError(f"BestMemberHook.rule: expected 'greater' or 'less', got {rule!r}")
        self.metric, self.sign = metric, 1 if rule == 'greater' else -1

    def before_train(self, runner):
        self.started = time.time()

    @master_only
    def after_val_epoch(self, runner, metrics=None):
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        best = dict(runner.message_hub.get_info('best_members', {}))
        epochs = dict(runner.message_hub.get_info('best_members_epochs', {}))
        names = [
            *model.specs,
            *(['ensemble'] if f'ensemble/{self.metric}' in (metrics or {}) else []),
        ]
        for name in names if metrics else ():
            key = f'{name}/{self.metric}'
            choose(key, sorted(metrics), 'BestMemberHook.metric')
            score = float(metrics[key])
            if name in best and self.sign * score <= self.sign * best[name]:
                continue
            best[name], epochs[name] = score, runner.epoch
            if name == 'ensemble' or model.specs[name].training == 'frozen':
                continue
            state = {f'members.{name}.{k}': v for k, v in model.network(name).state_dict().items()}
            export_member(
                runner.cfg,
                state,
                name,
                Path(runner.work_dir) / 'best_members' / f'{name}.pth',
                runner.val_dataloader.dataset.metainfo,
            )
        runner.message_hub.update_info('best_members', best)
        runner.message_hub.update_info('best_members_epochs', epochs)

    @master_only
    def after_train(self, runner):
        best = runner.message_hub.get_info('best_members', {})
        epochs = runner.message_hub.get_info('best_members_epochs', {})
        folder = Path(runner.work_dir) / 'best_members'
        rows = [['member', f'best {self.metric}', 'epoch', 'plain checkpoint']]
        for name, score in best.items():
            path = folder / f'{name}.pth'
            rows.append(
                [
                    name,
                    f'{score:.4f}',
                    str(epochs.get(name, '-')),
                    str(path) if path.is_file() else '-',
                ]
            )
        taken = datetime.timedelta(seconds=int(time.time() - self.started))
        runner.logger.info(
            f'Trained in {taken}'
            + (f'\n{align(rows, "  ")}' if best else '; nothing was validated')
        )
