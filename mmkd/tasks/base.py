from mmkd.registry import TASKS
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError

from .stages import backbone_stages


class Task:
    """What is specific to one task: its standard taps, default losses, ensemble, and how a network is run for taps only.

    Subclasses are registered in `mmkd.registry.TASKS` under the task's name; a new task is one such class.

    Args:
        networks (dict[str, nn.Module]): The members' networks.
    """

    standard_taps = ('prediction', 'feature')
    mixes_features = True  # whether a mixer may mix inside the networks
    truth_argument = None  # what a head's loss method calls the ground truth

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

    def classes_of(self, sample):
        """Return the classes in a data sample's ground truth, a frozenset of ints."""
        raise NotImplementedError

    def same_class(self, one, other):
        """Whether images with the classes `one` and `other` (of `classes_of`) are of the same class, for a mixer."""
        return one == other

    def paste(self, sample, other, box):
        """Return a copy of `sample` whose ground truth inside `box` is that of `other`.

        Args:
            box (tuple[int, int, int, int]): Top, bottom, left, right, in pixels of the preprocessed image.
        """
        raise NotImplementedError

    def stages_of(self, network):
        """Return the module paths (list[str]) whose outputs are the backbone's stages 1, 2, ...; none if unknown."""
        return backbone_stages(network.backbone)

    def loss_methods(self, network):
        """Return the heads' methods that make losses of outputs and ground truth, {module path: name}.

        Raises:
            ConfigError: If the network computes its loss otherwise.
        """
        raise NotImplementedError

    def truth_arguments(self, data_samples):
        """Return the arguments by which the methods of `loss_methods` get the ground truth of `data_samples`."""
        return {self.truth_argument: data_samples}

    def check_mixing(self, preprocessor):
        """Raise a ConfigError if what the shared data preprocessor does cannot go with a mixer."""

    def check_soft_labels(self, name, network):
        """Raise a ConfigError unless the losses of the member `name` take mixed labels."""
        raise ConfigError(f"labels: 'soft' is for classification, got {type(network).__name__}")

    def build_ensemble(self, members, **cfg):
        """Build the module that fuses the predictions of `members`: `fuse_samples(samples)` for one image's, one a member."""
        raise NotImplementedError

    @staticmethod
    def check_equal(values, what, key):
        """Raise a ConfigError unless all members' values (by name) are one."""
        if len(set(values.values())) > 1:
            raise ConfigError(f'{key}: members differ in {what}: {values}')

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
        ConfigError: If the networks belong to several tasks or to none that is known.
    """
    if name is not None:
        return TASKS.get(choose(name, TASKS.module_dict, 'model.task'))(networks)
    found = {
        member: [task for task in TASKS.module_dict.values() if task.fits(network)]
        for member, network in networks.items()
    }
    tasks = {task for candidates in found.values() for task in candidates}
    if len(tasks) != 1 or not all(found.values()):
        kinds = {member: type(network).__name__ for member, network in networks.items()}
        raise ConfigError(
            f'model.members: all must be networks of one task ({", ".join(TASKS.module_dict)}), got {kinds}'
        )
    return tasks.pop()(networks)
