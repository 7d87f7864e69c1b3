from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import torch
from mmengine.dist import broadcast, get_rank
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.distributions import Beta

from mmkd.registry import MODELS
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError
from mmkd.utils.random_stream import RandomStream

from .base import Mixer
from .meta_mix import MetaMix, takes_gt
from .pairing import cut_box, global_partners, local_partners

if TYPE_CHECKING:
    from mmkd.tasks import Task

FEW_PARTNERS = 0.25  # a smaller share of images with a partner is logged ...
TRIED_IMAGES = 100  # ... once this many have been tried


class Draw(NamedTuple):
    """One step's random numbers, the same on every rank.

    Attributes:
        local: Whether images are mixed locally.
        local_lam: Share of an image that its box should leave.
        center: The box's center, y and x, as shares of height and width.
        depth: Depth of the global mixing, None without.
        lam: Each image's own share in the global mixing.
        pairing: Seed of the pairing, to which the rank is added.
    """

    local: bool
    local_lam: float
    center: tuple[float, float]
    depth: int | None
    lam: float
    pairing: int


@MODELS.register_module()
class MetaMixer(Mixer):
    """Mix the images of a training batch in two stages, equally for all members.

    Wang, Xiao & Yamasaki, "MetaMixer: A Regularization Strategy for Online Knowledge Distillation"
    (arXiv 2303.07951). mmkd goes by the figure's caption: local mixing before the input and global
    mixing at any stage, of four images from two random classes. mmkd's reading:

    - local: each image gets a box of another image of the same class (CutMix, arXiv 1905.04899)
      from the batch; its label stays. Ground truth in the box (label map, boxes) goes with it. An
      image without a partner stays as it is: where images rarely have equal classes (scenes), local
      mixing is nearly off, which the log says; `partners='common'` is the looser rule.
    - global: h = lam f_1:k(x) + (1 - lam) f_1:k(x') with x' an image of other classes where the
      batch has one, and k drawn from `depths`: after the k-th stage of the member's backbone
      (manifold mixup, arXiv 1806.05236), 0 at the input. The loss is lam L(y) + (1 - lam) L(y').

    One draw per step, from a random stream of the mixer's own: k, lam and box are the same on every
    rank and for every member, the pairing is that of each rank's batch. Nothing is mixed outside
    training. Defaults are mmkd's choice.

    Args:
        task: The members' task.
        networks: The members' networks by name.
        preprocessor: The shared data preprocessor.
        depths: The k to draw from, each as likely. Detection has (0, ) only.
        alpha: lam ~ Beta(alpha, alpha) in the global mixing.
        global_prob: Share of steps with global mixing.
        local_alpha: The box leaves a share lam ~ Beta(local_alpha, local_alpha) of the image, more
            where the image's border clips it.
        local_prob: Share of steps with local mixing.
        labels: `index` computes each head's loss for both ground truths, `soft` gives the heads
            mixed labels (`gt_score`; classification, for losses that take them).
        stages: By member, module paths whose outputs are its stages 1, 2, ... Default: the
            backbone's own, where mmkd knows it (ResNet, Swin, ConvNeXt, MiT, U-Net's encoder).
        partners: Which images are of the same class: `equal` (all their classes) or `common` (one
            of them; of label maps the background is one). Default: `common` for detection, else
            `equal`.
        seed: Start of the random stream. Default: from the config's seed, that of rank 0.

    Raises:
        ConfigError: At build, for wrong values, a depth that a member does not have, a head whose
            loss cannot be mixed; in the first step, if a head computes its loss otherwise.
    """

    def __init__(
        self,
        task: Task,
        networks: Mapping[str, nn.Module],
        preprocessor: nn.Module,
        depths: Sequence[int] = (0, 1, 2, 3),
        alpha: float = 1.0,
        global_prob: float = 0.5,
        local_alpha: float = 1.0,
        local_prob: float = 0.5,
        labels: str = 'index',
        stages: Mapping[str, Sequence[str]] | None = None,
        partners: str | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(task, networks, preprocessor)
        for name, value in dict(alpha=alpha, local_alpha=local_alpha).items():
            if not _is_number(value) or not 0 < value < float('inf'):
                raise ConfigError(f'{name}: expected a positive number, got {value!r}')
        for name, value in dict(global_prob=global_prob, local_prob=local_prob).items():
            if not _is_number(value) or not 0 <= value <= 1:
                raise ConfigError(f'{name}: expected a number in [0, 1], got {value!r}')
        if (
            not isinstance(depths, (list, tuple))
            or not depths
            or not all(type(k) is int and k >= 0 for k in depths)
        ):
            raise ConfigError(f'depths: expected one or more integers >= 0, got {depths!r}')
        if seed is not None and (type(seed) is not int or seed < 0):
            raise ConfigError(f'seed: expected an integer >= 0, got {seed!r}')
        self.depths = tuple(depths)
        self.alpha, self.local_alpha = float(alpha), float(local_alpha)
        self.global_prob, self.local_prob = global_prob, local_prob
        self.labels = choose(labels, ('index', 'soft'), 'labels')
        self.same_class = self._same_class(partners)
        self.stages: dict[str, list[str]] = {}
        self.unchecked: set[str] = set()
        if global_prob > 0:
            self._find_stages(networks, stages or {})
            self._check_heads(networks)
        if seed is None:
            start = torch.tensor([(torch.initial_seed() + crc32(b'mixer')) % 2**31])
            broadcast(start)  # ranks may have seeds of their own
            seed = int(start)
        self.stream = RandomStream(seed)
        self.found, self.tried = 0, 0
        self.last: MetaMix | None = None

    def _same_class(self, partners: str | None) -> Callable[[frozenset, frozenset], bool]:
        if partners is None:
            return self.mixing.same_class
        if choose(partners, ('equal', 'common'), 'partners') == 'equal':
            return _are_equal
        if not self.mixing.cuts_gt:
            raise ConfigError(
                "partners: 'common' is for ground truth that is cut with the image; with labels of "
                f"the whole image ({type(self.task).__name__}) set 'equal'"
            )
        return _have_one_in_common

    def _find_stages(
        self, networks: Mapping[str, nn.Module], given: Mapping[str, Sequence[str]]
    ) -> None:
        for name in given:
            choose(name, networks, f'stages.{name}')
        if max(self.depths) == 0:
            return
        if not self.mixing.mixes_features:
            raise ConfigError(
                f'depths: {type(self.task).__name__} mixes at the input only, depths=(0, ); '
                f'got {self.depths}'
            )
        for name, network in networks.items():
            self.stages[name] = paths = list(given.get(name) or self.mixing.stages_of(network))
            if not paths:
                raise ConfigError(
                    f'stages: found none in the {type(network.backbone).__name__} of {name!r}: '
                    'name the modules whose outputs they are, '
                    f"stages=dict({name}=['backbone....', ...]), or set depths=(0, )"
                )
            modules = dict(network.named_modules())
            for path in paths:
                choose(path, filter(None, modules), f'stages.{name}')
            if max(self.depths) > len(paths):
                raise ConfigError(
                    f'depths: {max(self.depths)} is out of range for {name!r}, which has '
                    f'{len(paths)} stages: {", ".join(paths)}'
                )

    def _check_heads(self, networks: Mapping[str, nn.Module]) -> None:
        for name, network in networks.items():
            if not any(p.requires_grad for p in network.parameters()):
                continue  # frozen and averaged members compute no loss
            if self.labels == 'soft':
                self.mixing.check_soft_labels(name, network)
                continue
            argument = self.mixing.gt_argument
            for path, method in self.mixing.loss_methods(network).items():
                head = network.get_submodule(path)
                if not takes_gt(head, method, argument):
                    raise ConfigError(
                        f'the loss of {name!r} cannot be mixed: {type(head).__name__} does not '
                        f'compute it by {method}(..., {argument}); set global_prob=0'
                    )
            # That it does is seen in the first step.
            self.unchecked.add(name)

    def draw(self) -> Draw:
        """Draw one step's random numbers; each step consumes the stream alike."""
        with self.stream():
            local, mixed, y, x = torch.rand(4, dtype=torch.float64).tolist()
            local_lam = self._beta(self.local_alpha)
            lam = self._beta(self.alpha)
            depth = self.depths[int(torch.randint(len(self.depths), ()))]
            pairing = int(torch.randint(2**31, ()))
        return Draw(
            local < self.local_prob,
            local_lam,
            (y, x),
            depth if mixed < self.global_prob else None,
            lam,
            pairing,
        )

    @staticmethod
    def _beta(alpha: float) -> float:
        both = torch.full((2,), alpha, dtype=torch.float64)
        return Beta(*both).sample().item()

    def __call__(self, inputs: Tensor, data_samples: list[BaseDataElement]) -> MetaMix:
        """Draw for one training step and mix what is mixed before the members run.

        Args:
            inputs: Preprocessed images (N, C, H, W). Not changed.
            data_samples: One per image. Not changed.

        Returns:
            Images and ground truth for the members, applied to each by `MetaMix.applied_to`.
        """
        if self.last is not None:
            self.last.close()
        draw = self.draw()
        mix = self.last = MetaMix(self.mixing, self.stages, inputs, list(data_samples))
        mix.unchecked = self.unchecked
        if not draw.local and draw.depth is None:
            return mix
        generator = torch.Generator().manual_seed(draw.pairing + get_rank())
        classes = [self.mixing.classes_of(sample) for sample in data_samples]
        if draw.local:
            self._mix_locally(mix, draw, local_partners(classes, self.same_class, generator))
        if draw.depth is not None:
            self._mix_globally(mix, draw, global_partners(classes, generator))
        return mix

    def _mix_locally(self, mix: MetaMix, draw: Draw, partners: list[int | None]) -> None:
        self._count(partners)
        images, samples = mix.inputs, mix.data_samples
        mix.inputs, mix.data_samples = images.clone(), list(samples)
        for i, j in enumerate(partners):
            if j is None:
                continue
            # No padding is pasted, and none pasted over.
            height, width = _common_size(images, samples[i], samples[j], min)
            box, left = cut_box(height, width, draw.local_lam, draw.center)
            if left < 1:
                top, bottom, start, end = box
                mix.inputs[i, :, top:bottom, start:end] = images[j, :, top:bottom, start:end]
                mix.data_samples[i] = self.mixing.paste(samples[i], samples[j], box)

    def _count(self, partners: list[int | None]) -> None:
        """Say once that few images find a partner."""
        before = self.tried
        self.tried += len(partners)
        self.found += sum(partner is not None for partner in partners)
        if before < TRIED_IMAGES <= self.tried and self.found < FEW_PARTNERS * self.tried:
            print_log(
                f'model.mixer: local mixing found a partner of the same class for {self.found} of '
                f'{self.tried} images, so it hardly mixes: use larger batches, '
                "mmkd.ClassPairedSampler or partners='common' (a class in common)",
                logger='current',
                level=logging.WARNING,
            )

    def _mix_globally(self, mix: MetaMix, draw: Draw, partners: Tensor) -> None:
        mix.depth, mix.lam, mix.partners = draw.depth, draw.lam, partners.to(mix.inputs.device)
        samples = mix.data_samples
        others = [samples[j] for j in partners.tolist()]
        if draw.depth == 0:
            mix.inputs = mix.blend(mix.inputs)
            sizes = [
                _common_size(mix.inputs, one, other, max) for one, other in zip(samples, others)
            ]
            samples = [_sized(sample, size) for sample, size in zip(samples, sizes)]
            others = [_sized(sample, size) for sample, size in zip(others, sizes)]
        if self.labels == 'soft':
            mix.data_samples = self.mixing.soft_labels(samples, others, draw.lam)
        else:
            mix.data_samples, mix.others = samples, others

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the random stream, for `MemberHook`'s checkpoints."""
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self.stream.load_state_dict(state)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _are_equal(one: frozenset, other: frozenset) -> bool:
    return one == other


def _have_one_in_common(one: frozenset, other: frozenset) -> bool:
    return one == other or bool(one & other)


def _common_size(
    images: Tensor,
    one: BaseDataElement,
    other: BaseDataElement,
    choice: Callable[[Sequence[int]], int],
) -> tuple[int, int]:
    """Height and width without padding, the smaller (`min`) or larger (`max`) of two images'."""
    height, width = images.shape[-2:]
    sizes = [tuple(s.metainfo.get('img_shape', (height, width)))[:2] for s in (one, other)]
    heights, widths = zip(*sizes)
    return min(choice(heights), height), min(choice(widths), width)


def _sized(sample: BaseDataElement, size: tuple[int, int]) -> BaseDataElement:
    """A copy of a sample whose image has content up to `size`."""
    if tuple(sample.metainfo.get('img_shape', size))[:2] == size:
        return sample
    copy = sample.clone()
    copy.set_metainfo(dict(img_shape=size))
    return copy
