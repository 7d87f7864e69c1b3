from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmkd.utils.buffers import kept_statistics
from mmkd.utils.errors import ConfigError

from .batch import Batch
from .link_spec import LinkSpec

if TYPE_CHECKING:
    from .online_distiller import OnlineDistiller


class Step:
    """One training step: its batches, the links that are active, and how each member runs.

    Args:
        model: The distiller.
        inputs: Preprocessed labeled images (N, C, H, W).
        data_samples: One per image.
        unlabeled: `inputs` and `data_samples` of the unlabeled batch, where links use one.

    Attributes:
        active: The links that take part.
        needed: The taps that they read, see `Links.needed`.
        batches: By view, with what the taps have read so far.

    Raises:
        ConfigError: If a link acts on unlabeled images and there are none.
    """

    def __init__(
        self,
        model: OnlineDistiller,
        inputs: Tensor,
        data_samples: list[Any],
        unlabeled: dict[str, Any] | None,
    ) -> None:
        self.members, self.links, self.task = model.members, model.links, model.task
        self.progress, self.iteration = model.training_progress(), model.iteration()
        self.active = self.links.active(self.progress, self.iteration)
        self.needed = self.links.needed(self.active, self.iteration)
        mixer = model.mixer if model.training else None
        self.mix = mix = None if mixer is None else mixer(inputs, data_samples)
        labeled = (
            Batch(inputs, data_samples) if mix is None else Batch(mix.inputs, mix.data_samples)
        )
        if any('mask' in link.context_names for link in self.active):
            mask = self.task.valid_mask(labeled.data_samples)
            labeled.mask = mask if mask is None or mix is None else mix.valid_mask(mask)
        self.batches = dict(labeled=labeled)
        if self.needed['weak'] or self.needed['strong']:
            self._add_views(model, unlabeled)

    @property
    def _mixes_inside(self) -> bool:
        """Whether the mixer mixes inside the networks, which their inputs do not show."""
        return bool(getattr(self.mix, 'depth', 0))

    def _add_views(self, model: OnlineDistiller, unlabeled: dict[str, Any] | None) -> None:
        if unlabeled is None:
            raise ConfigError(
                'unlabeled_dataloader: a link acts on unlabeled images, and the batch has none: '
                "it must be given in the config, and train_cfg.type be 'mmkd.ResumableTrainLoop' "
                "or 'mmkd.ResumableIterTrainLoop'"
            )
        inputs, self._samples = unlabeled['inputs'], unlabeled.get('data_samples')
        self._changed = model.strongly(inputs)
        for view, images in (('weak', inputs), ('strong', self._changed.inputs)):
            batch = Batch(images, self._samples)
            # Links on unlabeled images get no ground truth, even where the files have it.
            batch.data_samples = None
            self.batches[view] = batch

    def labeled(self, name: str, taps: Collection[str] | None = None) -> dict[str, Any]:
        """Run a member on the labeled images: an online one with its loss, others for their taps.

        Args:
            name: The member.
            taps: Those that are read, after which an online member stops. Default: all that are
                needed, and it runs to the end.

        Returns:
            Its loss terms, none of a member that is not trained.
        """
        batch = self.batches['labeled']
        wanted = sorted(self.needed['labeled'].get(name, ()) if taps is None else taps)
        network, samples = self.members.network(name), batch.data_samples
        around = nullcontext() if self.mix is None else self.mix.applied_to(name, network)
        if self.members.specs[name].training == 'online':
            terms, readings = self.members.losses(
                name, batch.inputs, samples or [], wanted, around, taps is not None
            )
            batch.readings.update(readings)
            return terms
        if wanted:
            with around, torch.no_grad():
                batch.readings.update(
                    self.members.outputs(
                        self.task, name, batch.inputs, samples, wanted, not self._mixes_inside
                    )
                )
        return {}

    def weak(self, name: str) -> None:
        """Run a source on the weak view: no gradient, and no trace in running statistics."""
        batch, taps = self.batches['weak'], sorted(self.needed['weak'][name])
        readings = self.links.evaluate(name, batch.inputs, self._samples, taps)
        batch.readings.update(
            {k: r._replace(value=self._changed.move(r.value)) for k, r in readings.items()}
        )

    def strong(self, name: str) -> None:
        """Run a member on the strong view, without a trace in its running statistics."""
        batch, taps = self.batches['strong'], sorted(self.needed['strong'][name])
        learns = torch.is_grad_enabled() and name in self.members.online
        with torch.set_grad_enabled(learns), kept_statistics(self.members.network(name)):
            batch.readings.update(
                self.members.outputs(self.task, name, batch.inputs, self._samples, taps)
            )

    def linked(self, terms: Mapping[str, Any], target: str | None = None) -> dict[str, Tensor]:
        """Return the terms of the links.

        Args:
            terms: The members' own.
            target: Of the links into this member. Default: of all.
        """
        active = [link for link in self.active if target in (None, link.target)]
        compared = {link.target for link in active if link.compares(self.iteration)}
        own = {name: sum_of(terms, name) for name in compared}
        found: dict[str, Tensor] = self.links(
            active, self.batches, own, self.progress, self.iteration, target
        )
        return found


def mean_of(value: Tensor | Sequence[Tensor]) -> Tensor:
    """Return a loss term's mean; several tensors' means are summed, as mmengine does."""
    if isinstance(value, Tensor):
        return value.mean()
    return sum((item.mean() for item in value[1:]), value[0].mean())


def sum_of(terms: Mapping[str, Any], name: str) -> Tensor:
    """Sum the loss terms of the member `name`."""
    own = [
        mean_of(v)
        for k, v in terms.items()
        if k.startswith(f'{name}/') and 'loss' in k[len(name) :] and not LinkSpec.is_log_key(k)
    ]
    return sum(own[1:], own[0])
