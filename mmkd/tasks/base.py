from mmkd.registry import TASKS
from mmkd.utils.checks import choose


class Task:
    """What is specific to one task: its standard taps, default losses, ensemble, and how a network is run for taps only.

    Subclasses are registered in `mmkd.registry.TASKS` under the task's name; a new task is one such class.

    Args:
        networks (dict[str, nn.Module]): The members' networks.
    """

    standard_taps = ('prediction', 'feature')

    def __init__(self, networks):
        self.networks = networks

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

    def valid_mask(self, data_samples):
        """Return which positions count, a float Tensor (N, 1, H, W) of 0 and 1, or None where all do.

        Losses whose `forward` has an argument `mask` get it.
        """
        return None

    def build_ensemble(self, members, **cfg):
        """Build the module that fuses the predictions of `members`: `fuse_samples(samples)` for one image's, one a member."""
        raise NotImplementedError

    @staticmethod
    def check_equal(values, what, key):
        """Raise a ValueError unless all members' values (by name) are one."""
        if len(set(values.values())) > 1:
            raise ValueError(f'{key}: members differ in {what}: {values}')

    def truth_of(self, dataset, index, sample):
        """Return what `draw` takes as the ground truth of an image of a data set; `sample` is its data sample."""
        return sample

    def draw(self, canvas, size, sample, colour, metainfo):
        """Draw a data sample's prediction, or the ground truth that `truth_of` gave.

        Args:
            canvas (mmengine.visualization.Visualizer): With the image set.
            size (tuple[int, int]): The drawn image's height and width.
            sample: Data sample on the CPU.
            colour (tuple[int, int, int]): RGB.
            metainfo (dict): The data set's, with `classes`.
        """
        raise NotImplementedError

    def draw_disagreement(self, canvas, size, samples, colours, metainfo):
        """Draw where the members' predictions `samples` (by name) differ."""
        raise NotImplementedError


def last_level(module, output):
    """Reader of a `feature` tap: the last of a module's several outputs."""
    return output[-1] if isinstance(output, (list, tuple)) else output


def task_of(networks, name=None):
    """Return the task named, or the one that all `networks` (dict of nn.Module) belong to.

    Raises:
        ValueError: If the networks belong to several tasks or to none that is known.
    """
    if name is not None:
        return TASKS.get(choose(name, TASKS.module_dict, 'model.task'))(networks)
    found = {member: [task for task in TASKS.module_dict.values() if task.fits(network)]
             for member, network in networks.items()}
    tasks = {task for candidates in found.values() for task in candidates}
    if len(tasks) != 1 or not all(found.values()):
        kinds = {member: type(network).__name__ for member, network in networks.items()}
        raise ValueError(f'model.members: all must be networks of one task ({", ".join(TASKS.module_dict)}), got {kinds}')
    return tasks.pop()(networks)
