import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.dataset import ConcatDataset

from mmkd.registry import DATASETS
from mmkd.utils.errors import ConfigError
from mmkd.utils.test_sets import GAP, NUMBER, SEEN, SET, UNSEEN


@DATASETS.register_module()
class SeenUnseen(ConcatDataset):
    """Several test sets in one, each with a name: some like the training data, some from elsewhere.

    `mmkd.SeenUnseenEvaluator` measures each set and the gap between the two kinds:

        test_dataloader = dict(dataset=dict(
            type='mmkd.SeenUnseen',
            dataset=dict(type='mmkd.PolypSegmentation', ...),
            seen=dict(Kvasir=dict(data_root='data/kvasir/')),
            unseen=dict(ETIS=dict(data_root='data/etis/')),
        ))

    Args:
        dataset: Config of what the sets have in common, of any toolbox's data set.
        seen: By name of a set what is different in it, merged into `dataset`: the sets that the
            training knows, from the same hospitals as its images.
        unseen: The same, of sets that the training has nothing of.

    Raises:
        ConfigError: If a kind has no set, a name is empty, used twice, has a `/` or is one of
            `seen`, `unseen`, `gap`, or a set's changes are no dict; what the data sets raise.
        ValueError: If the sets have different classes.
    """

    _metainfo: dict[str, Any]

    def __init__(
        self, dataset: dict[str, Any], seen: Mapping[str, Any], unseen: Mapping[str, Any]
    ) -> None:
        configs = set_configs(dataset, seen, unseen)
        self.names = list(configs)
        super().__init__(list(configs.values()))
        self._metainfo = dict(
            self._metainfo,
            sets={
                name: dict(seen=name in seen, ann_file=getattr(one, 'ann_file', None) or None)
                for name, one in zip(self.names, self.datasets)
            },
        )

    def __getitem__(self, idx: int) -> Any:
        """Return an item whose samples know their set."""
        item = super().__getitem__(idx)
        name = self.names[self._get_ori_dataset_idx(idx)[0]]
        samples = item['data_samples']
        for sample in samples if isinstance(samples, Sequence) else [samples]:  # several: TTA
            sample.set_metainfo({SET: name, NUMBER: idx})
        return item

    @staticmethod
    def plain_config(dataset: Any, seen: Any, unseen: Any) -> dict[str, Any]:
        """Return what stands in an exported config, which runs without mmkd."""
        return dict(
            type='ConcatDataset', datasets=list(set_configs(dataset, seen, unseen).values())
        )


def set_configs(dataset: Any, seen: Any, unseen: Any) -> dict[str, dict[str, Any]]:
    """Return the config of each set by name, the seen ones first; see `SeenUnseen`."""
    if not isinstance(dataset, Mapping):
        raise ConfigError(f'SeenUnseen.dataset: expected a dict, got {dataset!r}')
    configs: dict[str, dict[str, Any]] = {}
    for kind, sets in ((SEEN, seen), (UNSEEN, unseen)):
        if not isinstance(sets, Mapping) or not sets:
            raise ConfigError(
                f'SeenUnseen.{kind}: expected a dict with one set or more, by name, got {sets!r}'
            )
        for name, changes in sets.items():
            if not name or '/' in name or name in (SEEN, UNSEEN, GAP):
                raise ConfigError(
                    f'SeenUnseen.{kind}: {name!r} cannot be the name of a set: a name has no "/" '
                    f'and is not {SEEN}, {UNSEEN} or {GAP}'
                )
            if name in configs:
                raise ConfigError(f'SeenUnseen.{kind}: {name!r} is among the seen sets, too')
            if not isinstance(changes, Mapping):
                raise ConfigError(f'SeenUnseen.{kind}.{name}: expected a dict, got {changes!r}')
            merged = Config(dict(one=copy.deepcopy(dict(dataset))))
            merged.merge_from_dict(dict(one=copy.deepcopy(dict(changes))))
            configs[name] = merged.to_dict()['one']
    return configs
