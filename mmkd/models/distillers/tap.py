import re

import torch

from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError


class Recorder:
    """A forward hook that keeps a module's output until it is read.

    A plain object and no closure, so that a deep copy of a distiller (mmengine's EMAHook makes one) records into its own
    copy. What it holds is no buffer: it reaches neither checkpoints nor DDP, and never survives a copy.
    """

    def __init__(self):
        self.outputs = []
        self.enabled = False

    def __call__(self, module, args, output):
        if self.enabled:
            self.outputs.append(output)

    def __deepcopy__(self, memo):
        return type(self)()

    def pop(self):
        outputs, self.outputs = self.outputs, []
        return outputs


class Tap:
    """One place of one member where knowledge is read.

    Args:
        member (str): The member's name.
        text (str): A standard name of the task (`prediction`, `feature`) or a module path (`neck`, `backbone.layer4`),
            with `[i]` for one level of several.
        network (nn.Module): The member's network.
        task: The task, which resolves standard names.
        key (str): Where the tap stands in the config, for messages.

    Raises:
        ConfigError: If there is no such standard name or module; the message names the nearest.
    """

    def __init__(self, member, text, network, task, key):
        match = re.fullmatch(r'([\w.]+)(?:\[(\d+)\])?', text)
        if match is None:
            raise ConfigError(
                f"{key}: expected 'name', 'module.path' or either with '[i]', got {text!r}"
            )
        name, index = match.groups()
        self.member, self.text, self.key = member, text, key
        self.index = None if index is None else int(index)
        self.reader = None
        if name in task.standard_taps:
            self.path, self.reader = task.resolve_tap(name, network, key)
        else:
            self.path = name
        modules = dict(network.named_modules())
        if self.path not in modules:
            choose(
                name, [*task.standard_taps, *filter(None, modules)], f'{key} (a tap of {member!r})'
            )
        self.module = modules[self.path]
        self.recorder = Recorder()
        self.module.register_forward_hook(self.recorder)

    def read(self):
        """Return what the last forward left and forget it: a tensor, a list of tensors (levels) or a `DensePrediction`.

        Raises:
            ConfigError: If the module ran never, or more than once, in that forward.
        """
        outputs = self.recorder.pop()
        if len(outputs) != 1:
            why = (
                (
                    'is not called as a module in the forward pass (heads that call their own `forward` are not): tap one of '
                    'its submodules'
                )
                if not outputs
                else (
                    f'is called {len(outputs)} times in one forward pass: tap one that is called once'
                )
            )
            raise ConfigError(f'{self.key}: the module {self.path!r} of {self.member!r} {why}')
        value = outputs[0]
        if self.reader is not None:
            value = self.reader(self.module, value)
        if isinstance(value, (list, tuple)):
            value = list(value)
            if self.index is not None:
                if self.index >= len(value):
                    raise ConfigError(
                        f'{self.key}: level [{self.index}] of {self.path!r}, which has {len(value)} levels'
                    )
                value = value[self.index]
            elif len(value) == 1:
                value = value[0]
        elif self.index is not None:
            raise ConfigError(
                f'{self.key}: [{self.index}] of {self.path!r}, whose output is no sequence'
            )
        return value


def detach(value):
    """Cut a tap's value out of the graph."""
    return [item.detach() for item in value] if isinstance(value, list) else value.detach()


def requires_grad(value):
    """Whether a gradient flows from a tap's value, or from one of its levels, into the network."""
    if isinstance(value, list):
        return any(requires_grad(item) for item in value)
    return value.requires_grad


def describe(value):
    """Tell a tap's shape in words, for messages."""
    if isinstance(value, list):
        return '[' + ', '.join(describe(item) for item in value) + ']'
    if isinstance(value, torch.Tensor):
        return str(tuple(value.shape))
    return str(value)
