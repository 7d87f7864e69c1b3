import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn

from mmkd.engine.loops.data_checks import acting_on_unlabeled
from mmkd.engine.optimizers.distillation_oriented_sgd import SHARE, average_gradients
from mmkd.registry import HOOKS
from mmkd.utils.errors import ConfigError
from mmkd.utils.model import distiller_of

from .each_member_hook import adapt_hooks

# What accumulates between two steps: an attribute of parameters, and its key in checkpoints.
GRADIENTS = {'grad': 'mmkd_gradients', SHARE: 'mmkd_distillation_gradients'}


@HOOKS.register_module()
class MemberHook(Hook):
    """What an `OnlineDistiller` needs of a Runner.

    - Ema members move after each optimizer step; links learn of each validation's metrics, which a
      checkpoint keeps.
    - Checkpoints hold, by rank, torch's, numpy's and Python's random states, each member's and the
      mixer's own, and the size that multi-scale resizing has drawn; also the state of the batches
      (`ResumableTrainLoop`) and gradients that are still accumulating. A resumed run goes on as an
      unbroken one would have. It is refused with other frozen members, or with other links that
      have weights, than those of the checkpoint.
    - A new training measures its links anew, also from the weights of another one (`load_from`).
    - A frozen member that has the classes of the training data in another order is refused; so are
      a link with `only_if_better` of a member that validation does not measure, and a training loop
      of mmengine's where links act on unlabeled images, which it does not load.
    - Hooks of the toolboxes that reach into the model act on each member (`EachMemberHook`).

    It runs before mmengine's EMAHook, which then averages updated members. With mmengine's own
    `CheckpointHook` a checkpoint holds rank 0's random states for all ranks.
    """

    priority = 'ABOVE_NORMAL'
    key = 'mmkd_random_states'

    def __init__(self) -> None:
        self.gathered: list[dict[str, Any]] | None = None
        self.resumed: dict[str, Any] = {}
        self.metrics: dict[str, float] = {}

    def before_run(self, runner: Runner) -> None:
        """Let toolbox hooks that reach into the model act on each member; check the loop."""
        adapt_hooks(runner)
        loop = type(runner._train_loop)  # built where it trains; `train_loop` would build it
        plain = loop in (EpochBasedTrainLoop, IterBasedTrainLoop)
        if plain and acting_on_unlabeled(runner.model):
            kind = 'Iter' if loop is IterBasedTrainLoop else ''
            raise ConfigError(
                f"train_cfg.type: expected 'mmkd.Resumable{kind}TrainLoop', which loads unlabeled "
                f'images, as links act on them, got {loop.__name__!r}'
            )

    def before_train(self, runner: Runner) -> None:
        """Go on from the states of the checkpoint; only now, as building draws, too."""
        model = distiller_of(runner.model)
        meta = getattr(runner.train_loop.dataloader.dataset, 'metainfo', None) or {}
        model.members.check_classes(meta.get('classes') or ())
        evaluated = getattr(runner.val_loop, 'names', None)
        if evaluated is not None:
            model.links.check_evaluated(evaluated)
        if not runner._resume:
            model.links.start_anew()
        saved = self.resumed.get(self.key)
        if saved is not None:
            states = saved.get('ranks', [saved])
            _restore(model, states[get_rank() if len(states) == get_world_size() else 0])
        parameters = dict(model.named_parameters())
        for attribute, key in GRADIENTS.items():
            saved = self.resumed.get(key, {})
            for name in saved.keys() & parameters.keys():
                setattr(parameters[name], attribute, saved[name].to(parameters[name]))
        self._tell(model, self.resumed.get('mmkd_metrics', {}))
        self.resumed = {}
        for cache in model.members.caches.values():
            if getattr(runner.train_loop, 'views', None) is None:
                runner.logger.warning(
                    f'{cache.key}: images that are augmented anew in each pass are never seen '
                    'again; set train_cfg.views, the number of views of each'
                )

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Move ema members if the optimizers have stepped; name images that are not finite."""
        model = distiller_of(runner.model)
        if runner.optim_wrapper.should_update():
            wrapper: Any = runner.optim_wrapper
            model.update_ema_members(wrapper.accumulative_counts)
        else:
            model._average_is_due = False
        if getattr(runner.optim_wrapper, 'skipped', ()):
            for image in _broken_images(data_batch):
                runner.logger.warning(f'{image}: its pixels are not finite')

    def after_train_epoch(self, runner: Runner) -> None:
        """Tell what frozen members' caches have saved."""
        for name, cache in distiller_of(runner.model).members.caches.items():
            runner.logger.info(f'{name}: {cache.summary()}')

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Tell the links how their members do."""
        self._tell(distiller_of(runner.model), metrics or {})

    def _tell(self, model: Any, metrics: dict[str, Any]) -> None:
        numbers = (int, float, np.number)
        self.metrics = {k: float(v) for k, v in metrics.items() if isinstance(v, numbers)}
        if self.metrics:
            model.links.after_validation(self.metrics)

    def before_saving(self, runner: Runner) -> None:
        """Gather what a checkpoint keeps of each rank; mmkd's hooks call it on all of them."""
        model = distiller_of(runner.model)
        states = _random_states(model)
        self.gathered = all_gather_object(states)
        if get_world_size() > 1 and not runner.optim_wrapper.should_update():
            # Each rank has gradients of its own yet: all go on from the mean that is saved.
            average_gradients([p for p in model.parameters() if p.requires_grad])
            for parameters in getattr(runner.optim_wrapper, 'split', {}).values():
                average_gradients(parameters, SHARE)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the states."""
        model = distiller_of(runner.model)
        ranks, self.gathered = self.gathered or [_random_states(model)], None
        checkpoint[self.key] = dict(ranks=ranks)
        checkpoint['mmkd_metrics'] = self.metrics
        checkpoint['mmkd_frozen'] = model.members.frozen_digests()
        checkpoint['mmkd_links'] = model.links.with_state()
        if hasattr(runner.train_loop, 'state_dict'):
            checkpoint['mmkd_batches'] = runner.train_loop.state_dict()
        if 'optimizer' in checkpoint and not runner.optim_wrapper.should_update():
            for attribute, key in GRADIENTS.items():
                checkpoint[key] = {
                    name: gradient.cpu()
                    for name, parameter in model.named_parameters()
                    if (gradient := getattr(parameter, attribute, None)) is not None
                }

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the states of a checkpoint to resume from, until training starts."""
        if not runner._resume:
            return
        _check_same(distiller_of(runner.model), checkpoint)
        keys = (self.key, *GRADIENTS.values(), 'mmkd_metrics')
        self.resumed = {key: checkpoint[key] for key in keys if key in checkpoint}
        if 'mmkd_batches' in checkpoint and hasattr(runner.train_loop, 'load_state_dict'):
            runner.train_loop.load_state_dict(checkpoint['mmkd_batches'])


def _check_same(model: Any, checkpoint: dict[str, Any]) -> None:
    """Raise a ConfigError if frozen members or links are not those of a checkpoint."""
    frozen = model.members.frozen_digests()
    for name, digest in checkpoint.get('mmkd_frozen', {}).items():
        if frozen.get(name, digest) != digest:
            raise ConfigError(
                f'cannot resume: model.members.{name}.checkpoint: '
                f'{model.specs[name].checkpoint!r} holds other weights than when the training '
                'began; start anew, or from the members of the checkpoint (load_from)'
            )
    own, saved = model.links.with_state(), checkpoint.get('mmkd_links')
    if saved is not None and saved != own:
        raise ConfigError(
            'cannot resume: the links with weights or measurements are not those of the '
            f'checkpoint, or in another order: {list(own.values())} here, {list(saved.values())} '
            'there'
        )


def _random_states(model: Any) -> dict[str, Any]:
    """Return this rank's random states, as plain values: checkpoints load with weights_only."""
    numpy_state: Any = np.random.get_state()
    kind, numbers, position, has_gauss, gauss = numpy_state
    return dict(
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        numpy=(kind, torch.from_numpy(numbers.astype(np.int64)), position, has_gauss, gauss),
        python=random.getstate(),
        members={n: s.stream.state_dict() for n, s in model.specs.items() if s.stream is not None},
        mixer=None if model.mixer is None else model.mixer.state_dict(),
        views=model.view_stream.state_dict(),
        sizes=[getattr(augment, '_input_size', None) for augment in _batch_augments(model)],
    )


def _restore(model: Any, states: dict[str, Any]) -> None:
    torch.set_rng_state(states['torch'].cpu())
    if states['cuda'] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'].cpu())
    kind, numbers, *rest = states['numpy']
    np.random.set_state((kind, numbers.cpu().numpy().astype(np.uint32), *rest))
    random.setstate(states['python'])
    for name, state in states['members'].items():
        if name in model.specs and model.specs[name].stream is not None:
            model.specs[name].stream.load_state_dict(state)
    if model.mixer is not None and states.get('mixer') is not None:
        model.mixer.load_state_dict(states['mixer'])
    if states.get('views') is not None:
        model.view_stream.load_state_dict(states['views'])
    for augment, size in zip(_batch_augments(model), states['sizes']):
        if hasattr(augment, '_input_size'):
            augment._input_size = size


def _batch_augments(model: Any) -> list[Any]:
    """Return the shared preprocessor's augmentations of whole batches.

    MMDetection and MMSegmentation have several, MMPretrain one object that draws among its own.
    """
    augments = getattr(model.data_preprocessor, 'batch_augments', None) or []
    return list(augments) if isinstance(augments, (list, tuple, nn.ModuleList)) else [augments]


def _broken_images(data_batch: Any) -> list[str]:
    """Name the images of a batch, labeled or not, with pixels that are not finite."""
    if not isinstance(data_batch, dict):
        return []
    found = _broken_images(data_batch.get('unlabeled'))
    inputs, samples = data_batch.get('inputs', ()), data_batch.get('data_samples') or ()
    for index, image in enumerate(inputs):
        if torch.isfinite(image).all():
            continue
        sample = samples[index] if index < len(samples) else None
        found.append(getattr(sample, 'img_path', None) or f'image {index} of the batch')
    return found
