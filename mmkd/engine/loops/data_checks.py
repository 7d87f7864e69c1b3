"""What a loop's data set must have, looked at before the first iteration."""

from typing import Any

from mmengine.runner import Runner
from torch import Tensor, nn

from mmkd.utils.errors import ConfigError, message_of
from mmkd.utils.model import distiller_of

from .batch_stream import seeded


def check_data(runner: Runner, dataset: Any, key: str, members: list[str] | None = None) -> None:
    """Raise a ConfigError unless a data set's items are what an OnlineDistiller's members take.

    Models of other kinds are left alone, and an empty data set is the loop's to refuse.

    Args:
        runner: Its model is built.
        dataset: The data set of a loader.
        key: The loader's key in the config.
        members: Who is trained or evaluated on it, with its classes. Default: nobody.
    """
    model = distiller_of(runner.model)
    if not hasattr(model, 'specs') or not len(dataset):
        return
    _check_item(model, _first(dataset, key), key)
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    for name in members or []:
        count = model.task.num_classes(model.network(name)) if name in model.specs else None
        if classes and count is not None and count != len(classes):
            shown = ', '.join(map(str, classes[:5])) + (', ...' if len(classes) > 5 else '')
            loop = f'{key.split("_")[0]}_cfg.members'
            rest = '' if key.startswith('train') else f', or leave it out of {loop}'
            raise ConfigError(
                f'model.members.{name}: its head tells {count} classes apart, the data of {key} '
                f'have {len(classes)} ({shown}); set num_classes in its options{rest}'
            )


def _first(dataset: Any, key: str) -> Any:
    with seeded(0):  # whatever it draws, the training draws as without it
        try:
            return dataset[0]
        except ConfigError:
            raise
        except Exception as error:  # a pipeline may raise anything
            raise ConfigError(
                f'{key}.dataset.pipeline: the first item cannot be made: '
                f'{type(error).__name__}: {message_of(error)}'
            ) from error


def _check_item(model: Any, item: Any, key: str) -> None:
    needed = ('inputs',) if key == 'unlabeled_dataloader' else ('inputs', 'data_samples')
    missing = [name for name in needed if not isinstance(item, dict) or name not in item]
    if missing:
        raise ConfigError(
            f'{key}.dataset.pipeline: its items have no {" and no ".join(missing)}; the last step '
            "must pack them ('PackDetInputs', 'PackSegInputs', 'PackInputs')"
        )
    image = item['inputs']  # several views under test-time augmentation
    if not isinstance(image, Tensor) or image.dim() != 3 or image.shape[0] != 1:
        return
    if getattr(model.data_preprocessor, '_enable_normalize', False):
        return  # mean and standard deviation of three channels make three of one
    for name, network in model.members.networks().items():
        first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
        if first is not None and first.in_channels % 3 == 0:
            raise ConfigError(
                f'{key}.dataset.pipeline: images of one channel, which {name!r} cannot take; load '
                "them in color (color_type='color')"
            )
