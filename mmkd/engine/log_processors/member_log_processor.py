import datetime
import re
from collections.abc import Iterable
from typing import Any

from mmengine.runner import LogProcessor, Runner

from mmkd.registry import LOG_PROCESSORS
from mmkd.utils.checks import check_integer
from mmkd.utils.model import distiller_of
from mmkd.utils.test_sets import gap_tables
from mmkd.utils.text import align, align_members

# What comes first in a line; the rest follows as it is.
ORDER = ['eta', 'time', 'data_time', 'memory', 'lr', 'loss', 'grad_norm']


@LOG_PROCESSORS.register_module()
class MemberLogProcessor(LogProcessor):
    """mmengine's LogProcessor with a row for each member in place of one long line.

    In training: epoch, iteration, remaining time and the joint loss, then each member's learning
    rate, loss, own terms and links' terms. After an evaluation: members and ensemble by metrics,
    or metrics by members where a line would be too long; metrics that are no numbers (class-wise
    tables, matrices) follow below. Of several sets (`mmkd.SeenUnseenEvaluator`): a table for each
    figure, members by sets. What goes to files and backends (`scalars.json`, TensorBoard, ...) is
    mmengine's, but that a validation's times are `val/time` and `val/data_time`: as `time` they
    would stand, by epochs, in the curve of the training's, by iterations. Arguments as mmengine's.
    """

    def __init__(self, window_size: int = 10, **kwargs: Any) -> None:
        super().__init__(check_integer(window_size, 'log_processor.window_size'), **kwargs)
        check_integer(self.num_digits, 'log_processor.num_digits', 0)

    def get_log_after_iter(
        self, runner: Runner, batch_idx: int, mode: str
    ) -> tuple[dict[str, Any], str]:
        """Return the scalars for the backends and the text, as mmengine's."""
        tag, text = super().get_log_after_iter(runner, batch_idx, mode)
        names = self._names(runner)
        if mode != 'train' or not names:
            return tag, text
        members, rest = self._split(tag, names, mode)
        if 'eta' in runner.message_hub.runtime_info:
            rest['eta'] = datetime.timedelta(seconds=int(runner.message_hub.get_info('eta')))
        keys = dict.fromkeys(key for terms in members.values() for key in terms)
        own = _ordered(key for key in keys if '[' not in key and key != 'base_lr')
        rows, links = [['member', *own]], ['links']
        for name, terms in members.items():
            rows.append([name, *(self._cell(key, terms) for key in own)])
            links.append(
                '  '.join(
                    f'{key.removeprefix("loss_")} {self._format(value)}'
                    for key, value in terms.items()
                    if '[' in key
                )
            )
        lines = align(rows, '  ').split('\n')
        if any(links[1:]):
            lines = [f'{line}  {link}'.rstrip() for line, link in zip(lines, links)]
        return tag, '\n'.join([self._header(text, rest), *lines])

    def get_log_after_epoch(
        self, runner: Runner, batch_idx: int, mode: str, with_non_scalar: bool = False
    ) -> tuple[dict[str, Any], str]:
        """Return the scalars for the backends and the text, as mmengine's."""
        tag, text = super().get_log_after_epoch(runner, batch_idx, mode, with_non_scalar)
        named = {_own(key, mode): value for key, value in tag.items()}
        names = self._names(runner)
        other = self._collect_non_scalars(runner, mode)
        numbers = {key: value for key, value in tag.items() if key not in other}
        members, rest = self._split(numbers, [*names, 'ensemble'], mode)
        if not names or not members:
            return named, text
        by_member = gap_tables(members) or self._table(members)
        tables = [
            f'  {self._remove_prefix(key, f"{mode}/")}:\n{_indented(value)}'
            for key, value in other.items()
        ]
        return named, '\n'.join([self._header(text, rest), by_member, *tables])

    def _table(self, members: dict[str, dict[str, Any]]) -> str:
        columns = list(dict.fromkeys(key for metrics in members.values() for key in metrics))
        rows = [['member', *columns]]
        rows += [
            [name, *(self._cell(key, metrics) for key in columns)]
            for name, metrics in members.items()
        ]
        return align_members(rows, '  ')

    @staticmethod
    def _names(runner: Runner) -> list[str]:
        return list(getattr(distiller_of(runner.model), 'specs', ()))

    def _split(
        self, tag: dict[str, Any], names: Iterable[str], mode: str
    ) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """Return {member: {term: value}} of those that have any, and what belongs to no member."""
        members: dict[str, dict[str, Any]] = {name: {} for name in names}
        rest = {}
        for key, value in tag.items():
            key = self._remove_prefix(key, f'{mode}/')
            found = re.fullmatch(r'(\w*)([/.]?)(.*)', key, re.DOTALL)
            name, mark, term = found.groups() if found else ('', '', key)
            if mark and name in members:
                members[name][term] = value
            elif key not in ('epoch', 'iter'):
                rest[key] = value
        return {name: terms for name, terms in members.items() if terms}, rest

    def _header(self, text: str, values: dict[str, Any]) -> str:
        """Return the beginning of mmengine's line and what belongs to no member."""
        place = re.match(r'\S+(\s*\[[^\]]*\])+', text)
        parts = [] if place is None else [place.group()]
        return '  '.join(
            [*parts, *(f'{key}: {self._format(values[key])}' for key in _ordered(values))]
        )

    def _cell(self, key: str, values: dict[str, Any]) -> str:
        if key not in values:
            return '-'
        value = values[key]
        if key.endswith('lr') and isinstance(value, (int, float)):
            return f'{value:.{self.num_digits}e}'
        return self._format(value)

    def _format(self, value: Any) -> str:
        return f'{value:.{self.num_digits}f}' if isinstance(value, float) else str(value)


def _ordered(keys: Iterable[str]) -> list[str]:
    return sorted(keys, key=lambda key: ORDER.index(key) if key in ORDER else len(ORDER))


def _own(key: str, mode: str) -> str:
    """Return a scalar's name that the training has not."""
    return f'val/{key}' if mode == 'val' and key in ('time', 'data_time') else key


def _indented(value: Any) -> str:
    return '\n'.join(f'    {line}' for line in str(value).split('\n'))
