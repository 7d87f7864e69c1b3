from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn

from mmkd.utils.checks import check_integer, check_number
from mmkd.utils.original_stack import autocasts_to_float16

HALF_SCALES = (2.0**16, 2.0**8, 1.0)  # the first at which float16 does not overflow


class Measurement(NamedTuple):
    """Norms and cosine of the task's and a link's gradient at a tap.

    The cosine is None where they are of different images.
    """

    task_norm: float
    link_norm: float
    cosine: float | None


class WeightRule(nn.Module):
    """Something that is fitted to a link's gradient while training, and gives a factor.

    Every `interval` iterations the link measures its own gradient and the task's where the link
    enters the target (one extra backward pass down to the tapped tensor), equal on all ranks, and
    calls `update`. The running means are in a buffer, hence in checkpoints. Those of the norms are
    geometric: gradients fall by orders of magnitude in a training, and a plain mean would keep to
    the old, large ones. A batch without gradient moves no mean.

    Args:
        interval: Iterations between measurements.
        momentum: Weight of the old value in the running means. Early means are plain averages.

    Examples:
        >>> @MODELS.register_module()
        ... class Softer(WeightRule):
        ...     def factor(self) -> float:
        ...         return 1 / (1 + self.link_norm)
    """

    means: Tensor
    goes_back = False  # A skipped step leaves the measurements as they are, see `KeptBuffers`.

    def __init__(self, interval: int = 20, momentum: float = 0.9) -> None:
        super().__init__()
        check_integer(interval, 'interval')
        check_number(momentum, 'momentum', 0, 1)
        self.interval, self.momentum = interval, momentum
        # Measurements, task norm, link norm, cosine, measurements with a gradient. The list is what
        # the step reads: no device is asked.
        self.register_buffer('means', torch.zeros(5))
        self._means = [0.0] * 5

    @property
    def measurements(self) -> int:
        """Number of measurements so far."""
        return int(self._means[0])

    @property
    def counted(self) -> int:
        """Number of measurements with a gradient of both, which the means are of."""
        return int(self._means[4])

    @property
    def task_norm(self) -> float:
        """Running geometric mean of the norm of the task's gradient at the tap."""
        return self._means[1]

    @property
    def link_norm(self) -> float:
        """The same of the link's gradient, at factor 1."""
        return self._means[2]

    @property
    def cosine(self) -> float:
        """Running mean of the cosine between both gradients."""
        return self._means[3]

    @property
    def acts(self) -> bool:
        """Whether the link is run at all."""
        return True

    def due(self, iteration: int) -> bool:
        """Return whether a measurement is due in this iteration (from 0)."""
        return self.measurements == 0 or iteration % self.interval == 0

    def update(self, found: Measurement) -> None:
        """Take a measurement into the running means."""
        count, task, link, cosine, counted = self._means
        keep = min(self.momentum, counted / (counted + 1))
        if found.task_norm > 0 and found.link_norm > 0:
            task = found.task_norm ** (1 - keep) * (task or found.task_norm) ** keep
            link = found.link_norm ** (1 - keep) * (link or found.link_norm) ** keep
            cosine = keep * cosine + (1 - keep) * (found.cosine or 0.0)
            counted += 1
        means = torch.tensor([count + 1, task, link, cosine, counted])
        self._means = means.tolist()  # rounded as in the buffer: a resumed run goes on alike
        self.means.copy_(means)

    def forget(self) -> None:
        """Begin anew, as a new training from the weights of another one (`load_from`) does."""
        self.means.zero_()
        self._means = self.means.tolist()

    def factor(self) -> float:
        """Return the factor of the link's terms."""
        raise NotImplementedError

    def _load_from_state_dict(self, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
        super()._load_from_state_dict(*args, **kwargs)
        self._means = self.means.tolist()


def tap_gradient(loss: Tensor, raw: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradient of a scalar at the tapped tensors that need one; the graph is kept.

    In float16, of the tensors or of what autocast runs after them, it is that of the scalar times a
    power of two, as a loss scaler would have it, since a mean over many pixels leaves the range;
    what is returned is in float32 and unscaled.
    """
    wanted = [tensor for tensor in raw if tensor.requires_grad]
    if not wanted or not loss.requires_grad:
        return [torch.zeros_like(tensor) for tensor in wanted]
    half = any(tensor.dtype == torch.float16 for tensor in wanted) or autocasts_to_float16(
        wanted[0].device.type
    )
    found: list[Tensor] = []
    for scale in HALF_SCALES if half else (1.0,):
        scaled = loss * scale if half else loss
        grads = torch.autograd.grad(scaled, wanted, retain_graph=True, allow_unused=True)
        found = [torch.zeros_like(t) if g is None else g for t, g in zip(wanted, grads)]
        if half:
            found = [gradient.float() / scale for gradient in found]
            if all(bool(gradient.isfinite().all()) for gradient in found):
                break
    return found


class GradientProducts(NamedTuple):
    """Products of the task's and a link's gradient on this rank, see `products_of`."""

    sums: Tensor
    comparable: bool


def products_of(
    task: Sequence[Tensor],
    link: Sequence[Tensor],
    images: tuple[int, int] | None = None,
    device: torch.device | str = 'cpu',
) -> GradientProducts:
    """Return the gradients' squares and their product, summed over a tap's tensors.

    Args:
        task: The task's gradient at the tap's tensors.
        link: The link's.
        images: Numbers of images that the task's and the link's are of, where these are different
            images: there is no cosine then, and norms are scaled to one image each. Default: None,
            both are of the same images.
        device: Where the sums are, the same for all links.
    """
    sums = torch.zeros(3, device=device)
    for place, (one, other) in enumerate(((task, task), (link, link), (task, link))):
        for a, b in zip(one, other) if place < 2 or images is None else ():
            sums[place] += (a.float() * b.float()).sum()
    if images is not None:  # the gradient of a mean over N images shrinks as N^-1/2
        sums[:2] *= sums.new_tensor(images) * get_world_size()
    return GradientProducts(sums, images is None)


def measure(products: Sequence[GradientProducts]) -> list[Measurement | None]:
    """Return norms and cosine of each pair of gradients over all ranks, by one all_reduce.

    None in place of those that are not all finite.
    """
    if not products:
        return []
    sums = torch.stack([each.sums for each in products])
    world = get_world_size()
    if world > 1:
        all_reduce(sums, 'sum')
        sums /= world**2  # DDP takes the mean over ranks: each has `world` times the joint gradient
    return [_measurement(row, each.comparable) for row, each in zip(sums.tolist(), products)]


def _measurement(sums: Sequence[float], comparable: bool) -> Measurement | None:
    task_square, link_square, dot = sums
    norms = task_square**0.5, link_square**0.5
    if not all(norm < float('inf') for norm in norms):
        return None
    if not comparable:
        return Measurement(*norms, None)
    product = norms[0] * norms[1]
    return Measurement(*norms, dot / product if product > 0 else 0.0)
