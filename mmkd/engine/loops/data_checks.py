"""What a loop's data set must have, looked at before the first iteration."""

from typing import Any

from mmengine.dataset import pseudo_collate
from mmengine.fileio import load
from torch import Tensor, nn

from mmkd.models.distillers.links import UNFIT_SIZE
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError, message_of
from mmkd.utils.model import distiller_of

from .batch_stream import seeded

IGNORED = 255  # mmseg's label of pixels that are not learned


def check_data(model: nn.Module, dataset: Any, key: str, members: list[str] | None = None) -> None:
    """Raise a ConfigError unless a data set's items are what an OnlineDistiller's members take.

    Models of other kinds are left alone, and an empty data set is the loop's to refuse.

    Args:
        model: The built model, wrapped or not.
        dataset: The data set of a loader.
        key: The loader's key in the config.
        members: Who is trained or evaluated on it, with its classes. Default: nobody.
    """
    distiller = distiller_of(model)
    if not hasattr(distiller, 'specs') or not len(dataset):
        return
    item = _first(dataset, key)
    _check_item(distiller, item, key)
    if not key.startswith(('val', 'test')):
        _check_size(distiller, item, key)
    _check_categories(dataset, f'{key}.dataset')
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    for name in members or []:
        if name not in distiller.specs:
            continue
        network = distiller.network(name)
        count = distiller.task.num_classes(network)
        _check_label_map(item, network, count, name, key)
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
            kind, said = type(error).__name__, message_of(error)
            said = said if said.startswith(kind) else f'{kind}: {said}'
            raise ConfigError(
                f'{key}.dataset.pipeline: the first item cannot be made: {said}'
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


def _check_categories(dataset: Any, key: str) -> None:
    """Raise a ConfigError for a class that is no category of a COCO file.

    mmdet leaves such a class out, and the labels of those behind it move up.
    """
    parts = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    for part in parts:
        if part is not None:
            _check_categories(part, f'{key}.dataset')
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    found, file = getattr(dataset, 'cat_ids', None), getattr(dataset, 'ann_file', None)
    if not classes or found is None or not file or len(found) == len(classes):
        return
    content = load(file, file_format='json', backend_args=dataset.backend_args)
    names = [category['name'] for category in content['categories']]
    for name in classes:
        choose(name, names, f'{key}.metainfo.classes, {file}')


def _check_label_map(item: Any, network: Any, count: int | None, name: str, key: str) -> None:
    """Raise a ConfigError if the first label map has a class that a member's head lacks."""
    labels = getattr(getattr(item['data_samples'], 'gt_sem_seg', None), 'data', None)
    if count is None or labels is None:
        return
    own = [getattr(module, 'ignore_index', None) for module in network.modules()]
    ignored = {IGNORED, *(value for value in own if isinstance(value, int) and value >= 0)}
    wrong = sorted(set(labels.unique().tolist()) - ignored - set(range(max(count, 2))))
    if wrong:  # one output tells two classes apart
        raise ConfigError(
            f'{key}: the label map of the first image has the value {wrong[-1]}, the head of '
            f'{name!r} tells {count} classes apart (0 to {count - 1}; '
            f'{", ".join(map(str, sorted(ignored)))} is ignored)'
        )


def _check_size(model: Any, item: Any, key: str) -> None:
    """Run the members that links read on the first image, for its size alone."""
    preprocessor, links = model.data_preprocessor, acting_on_unlabeled(model)
    labeled = key != 'unlabeled_dataloader'
    if labeled:
        if getattr(preprocessor, 'batch_augments', None):
            return  # they may give another size
        links = [link for link in getattr(model, 'links', None) or () if link.spec.weight != 0]
    ends = {name for link in links for name in (*link.source, link.target)}
    if labeled:  # a frozen member may keep what it reads: it runs in the training alone
        ends = {name for name in ends if model.specs[name].training == 'online'}
    if not ends:
        return
    with seeded(0):
        try:
            images = preprocessor(pseudo_collate([item]), labeled)['inputs']
        except ConfigError:
            raise
        except UNFIT_SIZE as error:
            raise ConfigError(
                f'model.data_preprocessor: the first image of {key} cannot be preprocessed: '
                f'{message_of(error)}'
            ) from error
        for name in sorted(ends):
            try:
                with model.members.without_trace(name):
                    # Twice: some norms take no single value, and the last level of one may be one.
                    model.read_taps(images.repeat(2, 1, 1, 1), None, [name])
            except ConfigError:
                raise
            except UNFIT_SIZE as error:
                size = f'{images.shape[-1]} x {images.shape[-2]}'
                raise ConfigError(
                    f'{key}: images of {size}: {name!r} does not take them: {message_of(error)}'
                ) from error


def acting_on_unlabeled(model: nn.Module) -> list[Any]:
    """Return the links that act on unlabeled images; one of weight 0 never runs."""
    links = getattr(distiller_of(model), 'links', None) or ()
    return [link for link in links if link.spec.on != 'labeled' and link.spec.weight != 0]


def check_unlabeled_given(model: nn.Module, given: bool) -> None:
    """Raise a ConfigError if links act on unlabeled images and there is no loader of them.

    Args:
        model: The built model, wrapped or not.
        given: Whether there is one.
    """
    acting = acting_on_unlabeled(model)
    if acting and not given:
        raise ConfigError(
            f'unlabeled_dataloader: must be given in the config, since {acting[0].key} acts on '
            'unlabeled images'
        )
