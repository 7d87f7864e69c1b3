import datetime
import re

from mmengine.model import is_model_wrapper
from mmengine.runner import LogProcessor

from mmkd.registry import LOG_PROCESSORS
from mmkd.utils.text import align


@LOG_PROCESSORS.register_module()
class MemberLogProcessor(LogProcessor):
    """mmengine's LogProcessor with a row for each member in place of one long line.

    In training: epoch, iteration, remaining time and the joint loss, then each member's learning rate, loss, own terms and links'
    terms. After an evaluation: members and ensemble by metrics. What goes to files and backends (`scalars.json`, TensorBoard,
    ...) is mmengine's. Arguments as mmengine's.
    """

    def get_log_after_iter(self, runner, batch_idx, mode):
        """Return the scalars for the backends and the text, as mmengine's."""
        tag, text = super().get_log_after_iter(runner, batch_idx, mode)
        names = self._names(runner)
        if mode != 'train' or not names:
            return tag, text
        members, rest = self._split(tag, names, mode)
        if 'eta' in runner.message_hub.runtime_info:
            rest['eta'] = datetime.timedelta(seconds=int(runner.message_hub.get_info('eta')))
        own = dict.fromkeys(
            key
            for terms in members.values()
            for key in terms
            if '[' not in key and key != 'base_lr'
        )
        own = sorted(own, key=lambda key: {'lr': 0, 'loss': 1, 'grad_norm': 2}.get(key, 3))
        rows = [['member', *own]]
        links = ['links']
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

    def get_log_after_epoch(self, runner, batch_idx, mode, with_non_scalar=False):
        """Return the scalars for the backends and the text, as mmengine's."""
        tag, text = super().get_log_after_epoch(runner, batch_idx, mode, with_non_scalar)
        names = self._names(runner)
        members, rest = self._split(tag, [*names, 'ensemble'], mode)
        if not names or not members:
            return tag, text
        columns = list(dict.fromkeys(key for metrics in members.values() for key in metrics))
        rows = [['member', *columns]]
        rows += [
            [name, *(self._cell(key, metrics) for key in columns)]
            for name, metrics in members.items()
        ]
        return tag, '\n'.join([self._header(text, rest), align(rows, '  ')])

    @staticmethod
    def _names(runner):
        model = runner.model
        while is_model_wrapper(model) or not hasattr(model, 'specs') and hasattr(model, 'module'):
            model = model.module
        return list(getattr(model, 'specs', ()))

    def _split(self, tag, names, mode):
        """Return {member: {term: value}} of those that have any, and what belongs to no member."""
        members, rest = {name: {} for name in names}, {}
        for key, value in tag.items():
            key = self._remove_prefix(key, f'{mode}/')
            name, mark, term = re.fullmatch(r'(\w*)([/.]?)(.*)', key, re.DOTALL).groups()
            if mark and name in members:
                members[name][term] = value
            elif key not in ('epoch', 'iter'):
                rest[key] = value
        return {name: terms for name, terms in members.items() if terms}, rest

    def _header(self, text, values):
        """The beginning of mmengine's line, `Epoch(train)  [1][20/40]`, and what belongs to no member."""
        place = re.match(r'\S+(\s*\[[^\]]*\])+', text).group()
        ordered = sorted(
            values, key=lambda key: {'eta': 0, 'time': 1, 'data_time': 2, 'memory': 3}.get(key, 4)
        )
        return '  '.join([place, *(f'{key}: {self._format(values[key])}' for key in ordered)])

    def _cell(self, key, values):
        if key not in values:
            return '-'
        return (
            f'{values[key]:.{self.num_digits}e}'
            if key.endswith('lr')
            else self._format(values[key])
        )

    def _format(self, value):
        return f'{value:.{self.num_digits}f}' if isinstance(value, float) else str(value)
