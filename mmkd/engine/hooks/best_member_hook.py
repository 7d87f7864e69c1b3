import datetime
import math
import time
from pathlib import Path

from mmengine.dist import is_main_process, master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd.engine.loops.position import position_of
from mmkd.export import export_member, plain_config
from mmkd.registry import HOOKS
from mmkd.utils.checks import choose
from mmkd.utils.files import remove_leftovers
from mmkd.utils.model import distiller_of
from mmkd.utils.text import align

from .safe_checkpoint_hook import told_on_failure


@HOOKS.register_module()
class BestMemberHook(Hook):
    """Export each member's plain checkpoint and config whenever its own metric is the best so far.

    Files: `<work_dir>/best_members/<member>.pth` and `.py`. Runs before mmengine's EMAHook swaps
    the averaged weights out again, so that what is written is what was measured. A value that is
    not finite is never the best. After the training the log says each member's (and the
    ensemble's) best value, its epoch or iteration, where the exports lie, and the time taken.

    Args:
        metric: Name of the metric without the member: `coco/bbox_mAP`.
        rule: `greater` or `less` is better. Default: `greater`.

    Raises:
        ConfigError: If the evaluation gives no such metric; before the training, if a member has no
            plain config.
        MachineError: If an export cannot be written (a full disk); the message names the
            checkpoint to resume from.
    """

    priority = 'HIGH'

    def __init__(self, metric: str, rule: str = 'greater') -> None:
        choose(rule, ('greater', 'less'), 'BestMemberHook.rule')
        self.metric, self.sign = metric, 1 if rule == 'greater' else -1
        self.exported: set[str] = set()  # by this run

    def before_train(self, runner: Runner) -> None:
        """Start the clock; see that what is evaluated can be exported; remove kills' leftovers."""
        self.started = time.time()
        specs = distiller_of(runner.model).specs
        for name in getattr(runner.val_loop, 'names', ()):
            if name in specs and specs[name].training != 'frozen':
                plain_config(runner.cfg, name)
        if is_main_process():
            remove_leftovers(Path(runner.work_dir) / 'best_members')

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Export the evaluated members that are better than ever."""
        model = distiller_of(runner.model)
        best = dict(runner.message_hub.get_info('best_members', {}))
        positions = dict(runner.message_hub.get_info('best_members_epochs', {}))
        evaluated = {key.split('/')[0] for key in metrics or ()}
        for name in (name for name in (*model.specs, 'ensemble') if name in evaluated):
            key = choose(f'{name}/{self.metric}', sorted(metrics or ()), 'BestMemberHook.metric')
            score = float(metrics[key])  # type: ignore[index]
            worse = not self.sign * score > self.sign * best.get(name, math.nan)
            if not math.isfinite(score) or (worse and math.isfinite(best.get(name, math.nan))):
                continue
            best[name], positions[name] = score, position_of(runner)[1]
            if name == 'ensemble' or model.specs[name].training == 'frozen':
                continue
            state = {f'members.{name}.{k}': v for k, v in model.network(name).state_dict().items()}
            with told_on_failure(runner):
                export_member(
                    runner.cfg,
                    state,
                    name,
                    Path(runner.work_dir) / 'best_members' / f'{name}.pth',
                    runner.val_dataloader.dataset.metainfo,
                    check_out=name not in self.exported,
                )
            self.exported.add(name)
        runner.message_hub.update_info('best_members', best)
        runner.message_hub.update_info('best_members_epochs', positions)

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Sum up."""
        best = runner.message_hub.get_info('best_members', {})
        positions = runner.message_hub.get_info('best_members_epochs', {})
        folder = Path(runner.work_dir) / 'best_members'
        rows = [['member', f'best {self.metric}', position_of(runner)[0], 'plain checkpoint']]
        for name, score in best.items():
            path = folder / f'{name}.pth'
            exported = str(path) if path.is_file() else '-'
            rows.append([name, f'{score:.4f}', str(positions.get(name, '-')), exported])
        taken = datetime.timedelta(seconds=int(time.time() - self.started))
        found = f'\n{align(rows, "  ")}' if best else '; nothing was validated'
        runner.logger.info(f'Trained in {taken}{found}')
