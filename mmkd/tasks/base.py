from mmkd.registry import TASKS
from mmkd.utils.checks import build_checked


class Task:
    """What is specific to one task: its standard taps, default losses, ensemble, and how a network is run for taps only.

    Subclasses are registered in `mmkd.registry.TASKS`; a new task is one such class.
    """

    standard_taps = ('prediction', 'feature')

    @classmethod
    def fits(cls, network):
        """Whether `network` is one of this task's."""
        raise NotImplementedError

    def resolve_tap(self, name, network, key):
        """Return (module path, reader) of a standard tap; `reader(module, output)` gives the tap's value, or None."""
        raise NotImplementedError

    def default_loss(self, tap):
        """Return the config of the loss for a standard tap, None where there is no default."""
        return {'feature': dict(type='FeatureMSE')}.get(tap)

    def run_for_taps(self, network, inputs, data_samples, paths):
        """Run `network` without losses, as far as the modules at `paths` need."""
        raise NotImplementedError

    def build_ensemble(self, **cfg):
        """Build the module that fuses members' predictions."""
        raise NotImplementedError


def task_of(networks, name=None):
    """Return the task named, or the one that all `networks` (dict of nn.Module) belong to.

    Raises:
        ValueError: If the networks belong to several tasks or to none that is known.
    """
    if name is not None:
        return build_checked(TASKS, name, 'model.task')
    found = {member: [task for task in TASKS.module_dict.values() if task.fits(network)]
             for member, network in networks.items()}
    tasks = {task for candidates in found.values() for task in candidates}
    if len(tasks) != 1 or not all(found.values()):
        kinds = {member: type(network).__name__ for member, network in networks.items()}
        raise ValueError(f'model.members: all must be networks of one task ({", ".join(TASKS.module_dict)}), got {kinds}')
    return tasks.pop()()
