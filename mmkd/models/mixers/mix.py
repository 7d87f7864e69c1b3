import inspect
from contextlib import ExitStack, contextmanager

import torch


class Mix:
    """What a `MetaMixer` has made of one training step's batch, and its application to the members.

    Args:
        task (Task): The members' task.
        stages (dict[str, list[str]]): By member, the module paths of its stages.
        inputs (Tensor): Images (N, C, H, W) as the members get them.
        data_samples (list): The images' ground truth, one a image.

    Attributes:
        depth (int, optional): Stage after which images are mixed globally, 0 for the input; None without.
        lam (float): Each image's own share in the global mixing; 1 without.
        partners (Tensor, optional): Index (N, ) of the image that is mixed into each one.
        others (list, optional): The partners' ground truth where the losses are to be mixed of both.
    """

    def __init__(self, task, stages, inputs, data_samples):
        self.task, self.stages = task, stages
        self.inputs, self.data_samples = inputs, data_samples
        self.depth, self.lam, self.partners, self.others = None, 1.0, None, None

    def blend(self, value):
        """Mix each image's part of a tensor (N, ...), or of the tensors in a tuple or list, with its partner's.

        What is no floating-point tensor with N images (a size) is left as it is.
        """
        if isinstance(value, (tuple, list)):
            return type(value)([self.blend(item) for item in value])
        if (
            not isinstance(value, torch.Tensor)
            or not value.is_floating_point()
            or len(value) != len(self.partners)
        ):
            return value
        return self.lam * value + (1 - self.lam) * value[self.partners]

    def valid_mask(self, mask):
        """Return which positions count in both ground truths, given those (N, 1, H, W) that count in each image's."""
        return mask if self.partners is None else mask * mask[self.partners]

    @contextmanager
    def applied_to(self, name, network):
        """Mix the member's stage output, and its losses of both ground truths, in the forward pass run inside.

        Raises:
            RuntimeError: If the stage's module does not run exactly once, or a network in training hands no head's
                outputs to its loss.
        """
        runs, heads = [], {}
        with ExitStack() as stack:
            if self.depth:
                stage = self.stages[name][self.depth - 1]

                def mix_stage(module, args, output):
                    runs.append(module)
                    mixed = self.blend(output)
                    if all(new is old for new, old in zip(_items(mixed), _items(output))):
                        raise RuntimeError(
                            f'model.mixer.stages.{name}: {stage!r} gives {type(output).__name__}, expected '
                            'a tensor with an entry an image, or a tuple or list of such'
                        )
                    return mixed

                # First, so that taps on the same module read the mixed output.
                stack.callback(
                    network.get_submodule(stage)
                    .register_forward_hook(mix_stage, prepend=True)
                    .remove
                )
            if self.others is not None and network.training:
                truth = self.task.truth_arguments([sample.clone() for sample in self.others])
                for path, method in self.task.loss_methods(network).items():
                    heads[path] = stack.enter_context(
                        _two_truths(network.get_submodule(path), method, truth, self.lam)
                    )
            yield
        if self.depth and len(runs) != 1:
            raise RuntimeError(
                f'model.mixer.stages.{name}: {stage!r} ran {len(runs)} times in one forward pass; a stage is '
                'a module that runs once'
            )
        for path, calls in heads.items():
            if not calls:
                method = self.task.loss_methods(network)[path]
                raise RuntimeError(
                    f'model.mixer: {path!r} of {name!r} computed its loss otherwise than by {method!r}, which '
                    'MetaMixer calls for both ground truths'
                )


def _items(value):
    return value if isinstance(value, (tuple, list)) else [value]


@contextmanager
def _two_truths(head, method, truth, lam):
    """Make `head.method` return lam times its losses and (1 - lam) times those with the arguments `truth`."""
    original, calls = getattr(head, method), []
    signature = inspect.signature(original)

    def both(*args, **kwargs):
        calls.append(method)
        bound = signature.bind(*args, **kwargs)
        first = original(*bound.args, **bound.kwargs)
        bound.arguments.update(
            {key: value for key, value in truth.items() if key in signature.parameters}
        )
        return mix_losses(first, original(*bound.args, **bound.kwargs), lam)

    setattr(head, method, both)
    try:
        yield calls
    finally:
        delattr(head, method)


def mix_losses(first, second, lam):
    """Return lam times `first`'s losses plus (1 - lam) times `second`'s; what is no loss (accuracies) is the first's.

    Args:
        first, second (dict): Tensors or lists of tensors with equal keys.
        lam (float): Share of `first`.
    """

    def mixed(a, b):
        return (
            [mixed(x, y) for x, y in zip(a, b)]
            if isinstance(a, (list, tuple))
            else lam * a + (1 - lam) * b
        )

    return {
        key: mixed(value, second[key]) if 'loss' in key else value for key, value in first.items()
    }


def hands_outputs_to(head, method, argument):
    """Whether `head.loss` gives its outputs to `head.method`, which takes the ground truth as `argument`."""
    if argument not in inspect.signature(getattr(head, method, lambda: None)).parameters:
        return False
    for cls in type(head).__mro__:
        if 'loss' in vars(cls):
            names = inspect.unwrap(vars(cls)['loss']).__code__.co_names
            if method in names:
                return True
            if 'super' not in names:
                return False
    return False
