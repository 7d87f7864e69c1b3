from typing import NamedTuple
from zlib import crc32

import torch
from mmengine.dist import broadcast, get_rank
from torch.distributions import Beta

from mmkd.registry import MODELS
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError
from mmkd.utils.random_stream import RandomStream

from .mix import Mix, hands_outputs_to
from .pairing import cut_box, global_partners, local_partners


class Draw(NamedTuple):
    """One step's random numbers, the same on every rank.

    Attributes:
        local (bool): Whether images are mixed locally.
        local_lam (float): Share of an image that its box should leave.
        center (tuple[float, float]): The box's centre, y and x, as shares of height and width.
        depth (int, optional): Depth of the global mixing, None without.
        lam (float): Each image's own share in the global mixing.
        pairing (int): Seed of the pairing, to which the rank is added.
    """

    local: bool
    local_lam: float
    center: tuple
    depth: int
    lam: float
    pairing: int


@MODELS.register_module()
class MetaMixer:
    """Mix the images of a training batch in two stages, equally for all members.

    Wang, Xiao & Yamasaki, "MetaMixer: A Regularization Strategy for Online Knowledge Distillation" (arXiv 2303.07951). Of
    the paper, the figure's caption is what mmkd goes by: local mixing before the input and global mixing at any stage, of
    four images from two random classes. The reading, mmkd's:

    - local: each image gets a box of another image of the same class (CutMix, arXiv 1905.04899), drawn from the batch; its
      label stays. An image without partner stays as it is. Ground truth in the box (label map, boxes) goes with it.
    - global: h = lam f_1:k(x) + (1 - lam) f_1:k(x') with x' an image of other classes where the batch has one, and k drawn
      from `depths`: after the k-th stage of the member's backbone (manifold mixup, arXiv 1806.05236), 0 at the input. The
      loss is lam L(y) + (1 - lam) L(y').

    One draw a step, from a random stream of the mixer's own: k, lam and box are the same on every rank and for every member,
    the pairing is that of each rank's batch. Nothing is mixed outside training. Defaults are mmkd's choice.

    Args:
        depths (Sequence[int]): The k to draw from, each as likely. Detection has (0, ) only. Default: (0, 1, 2, 3).
        alpha (float): lam ~ Beta(alpha, alpha) in the global mixing. Default: 1.
        global_prob (float): Share of steps with global mixing. Default: 0.5.
        local_alpha (float): The box leaves a share lam ~ Beta(local_alpha, local_alpha) of the image, more where the image's
            border clips it. Default: 1.
        local_prob (float): Share of steps with local mixing. Default: 0.5.
        labels (str): `index` computes each head's loss for both ground truths, `soft` gives the heads mixed labels
            (`gt_score`; classification, for losses that take them). Default: `index`.
        stages (dict[str, list[str]], optional): By member, module paths whose outputs are its stages 1, 2, ... Default: the
            backbone's own, where mmkd knows it (ResNet, Swin, ConvNeXt, MiT, U-Net's encoder).
        seed (int, optional): Start of the random stream. Default: from the config's seed, that of rank 0.
        task, networks, preprocessor: The distiller's task, its networks by name and its data preprocessor.

    Raises:
        ConfigError: At build, for wrong values, a depth that a member does not have, a head whose loss cannot be mixed.
    """

    def __init__(
        self,
        task,
        networks,
        preprocessor,
        depths=(0, 1, 2, 3),
        alpha=1.0,
        global_prob=0.5,
        local_alpha=1.0,
        local_prob=0.5,
        labels='index',
        stages=None,
        seed=None,
    ):
        for name, value in dict(alpha=alpha, local_alpha=local_alpha).items():
            if not isinstance(value, (int, float)) or not 0 < value < float('inf'):
                raise ConfigError(f'{name}: expected a positive number, got {value!r}')
        for name, value in dict(global_prob=global_prob, local_prob=local_prob).items():
            if not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise ConfigError(f'{name}: expected a number in [0, 1], got {value!r}')
        if (
            not isinstance(depths, (list, tuple))
            or not depths
            or not all(type(k) is int and k >= 0 for k in depths)
        ):
            raise ConfigError(f'depths: expected one or more integers >= 0, got {depths!r}')
        self.task, self.depths = task, tuple(depths)
        self.alpha, self.global_prob, self.local_alpha, self.local_prob = (
            alpha,
            global_prob,
            local_alpha,
            local_prob,
        )
        self.labels = choose(labels, ('index', 'soft'), 'labels')
        task.check_mixing(preprocessor)
        self.stages = {}
        if global_prob > 0:
            self._find_stages(networks, stages or {})
            self._check_heads(networks)
        if seed is None:
            start = torch.tensor([(torch.initial_seed() + crc32(b'mixer')) % 2**31])
            broadcast(start)  # ranks may have seeds of their own
            seed = int(start)
        self.stream = RandomStream(seed)

    def _find_stages(self, networks, given):
        for name in given:
            choose(name, networks, f'stages.{name}')
        if max(self.depths) == 0:
            return
        if not self.task.mixes_features:
            raise ConfigError(
                f'depths: {type(self.task).__name__} mixes at the input only, depths=(0, ); got {self.depths}'
            )
        for name, network in networks.items():
            self.stages[name] = paths = list(given.get(name) or self.task.stages_of(network))
            if not paths:
                raise ConfigError(
                    f'stages: found none in the {type(network.backbone).__name__} of {name!r}: name the '
                    f"modules whose outputs they are, stages=dict({name}=['backbone....', ...]), or set depths=(0, )"
                )
            modules = dict(network.named_modules())
            for path in paths:
                choose(path, filter(None, modules), f'stages.{name}')
            if max(self.depths) > len(paths):
                raise ConfigError(
                    f'depths: {max(self.depths)} is none of {name!r}, which has {len(paths)} stages: '
                    f'{", ".join(paths)}'
                )

    def _check_heads(self, networks):
        for name, network in networks.items():
            if self.labels == 'soft':
                self.task.check_soft_labels(name, network)
                continue
            for path, method in self.task.loss_methods(network).items():
                head = network.get_submodule(path)
                if not hands_outputs_to(head, method, self.task.truth_argument):
                    raise ConfigError(
                        f'the loss of {name!r} cannot be mixed: {type(head).__name__} does not compute it from '
                        f'its outputs by {method}(..., {self.task.truth_argument}); set global_prob=0'
                    )

    def draw(self):
        """Draw one step's random numbers; each step consumes the stream alike, whatever the probabilities."""
        with self.stream():
            local, mixed, *center = torch.rand(4, dtype=torch.float64).tolist()
            local_lam = (
                Beta(*torch.full((2,), float(self.local_alpha), dtype=torch.float64))
                .sample()
                .item()
            )
            lam = Beta(*torch.full((2,), float(self.alpha), dtype=torch.float64)).sample().item()
            depth = self.depths[torch.randint(len(self.depths), ())]
            pairing = torch.randint(2**31, ()).item()
        depth = depth if mixed < self.global_prob else None
        return Draw(local < self.local_prob, local_lam, tuple(center), depth, lam, pairing)

    def __call__(self, inputs, data_samples):
        """Draw for one training step and mix what is mixed before the members run.

        Args:
            inputs (Tensor): Preprocessed images (N, C, H, W); not changed.
            data_samples (list): One a image; not changed.

        Returns:
            Mix: Images and ground truth for the members, applied to each by `Mix.applied_to`.
        """
        draw = self.draw()
        mix = Mix(self.task, self.stages, inputs, list(data_samples))
        if not draw.local and draw.depth is None:
            return mix
        generator = torch.Generator().manual_seed(draw.pairing + get_rank())
        classes = [self.task.classes_of(sample) for sample in data_samples]
        if draw.local:
            self._mix_locally(mix, draw, local_partners(classes, self.task.same_class, generator))
        if draw.depth is not None:
            self._mix_globally(mix, draw, global_partners(classes, generator))
        return mix

    def _mix_locally(self, mix, draw, partners):
        images, samples = mix.inputs, mix.data_samples
        mix.inputs, mix.data_samples = images.clone(), list(samples)
        for i, j in enumerate(partners):
            if j is None:
                continue
            height, width = _common_size(
                images, samples[i], samples[j], min
            )  # no padding is pasted, none pasted over
            box, left = cut_box(height, width, draw.local_lam, draw.center)
            if left < 1:
                top, bottom, start, end = box
                mix.inputs[i, :, top:bottom, start:end] = images[j, :, top:bottom, start:end]
                mix.data_samples[i] = self.task.paste(samples[i], samples[j], box)

    def _mix_globally(self, mix, draw, partners):
        mix.depth, mix.lam, mix.partners = draw.depth, draw.lam, partners.to(mix.inputs.device)
        samples = mix.data_samples
        others = [samples[j] for j in partners.tolist()]
        if draw.depth == 0:
            mix.inputs = mix.blend(mix.inputs)
            sizes = [
                _common_size(mix.inputs, one, other, max) for one, other in zip(samples, others)
            ]
            samples, others = (
                [_sized(sample, size) for sample, size in zip(group, sizes)]
                for group in (samples, others)
            )
        if self.labels == 'soft':
            mix.data_samples = self.task.soft_labels(samples, others, draw.lam)
        else:
            mix.data_samples, mix.others = samples, others

    def state_dict(self):
        """Return the state of the random stream, for `MemberHook`'s checkpoints."""
        return self.stream.state_dict()

    def load_state_dict(self, state):
        """Go on from a state of `state_dict`."""
        self.stream.load_state_dict(state)


def _common_size(images, one, other, choice):
    """Height and width without padding, the smaller (`min`) or larger (`max`) of two images'."""
    whole = tuple(images.shape[-2:])
    sizes = [tuple(sample.metainfo.get('img_shape', whole))[:2] for sample in (one, other)]
    return tuple(min(choice(pair), limit) for pair, limit in zip(zip(*sizes), whole))


def _sized(sample, size):
    """A copy of a sample whose image has content up to `size`."""
    if tuple(sample.metainfo.get('img_shape', size))[:2] == size:
        return sample
    copy = sample.clone()
    copy.set_metainfo(dict(img_shape=size))
    return copy
