"""The reports in docs/studies are those of the results beside them."""

import re
from pathlib import Path

import pytest

from mmkd.apis.study.plan import load_plan
from mmkd.apis.study.report import report_blocks, to_markdown
from mmkd.apis.study.summary import summarize

for package in ('mmdet', 'mmseg', 'mmpretrain'):
    pytest.importorskip(package)

ROOT = Path(__file__).resolve().parents[1]
STUDIES = sorted(path.parent for path in (ROOT / 'docs/studies').glob('*/results'))


@pytest.mark.skipif(not (ROOT / '.git').exists(), reason='a plan is checked in a git clone')
@pytest.mark.parametrize('folder', STUDIES, ids=lambda folder: folder.name)
def test_a_report_is_that_of_its_results(folder):
    text = to_markdown(report_blocks(summarize(load_plan(folder / 'plan.py'))))
    assert (folder / 'report.md').read_text() == text


def test_the_results_of_the_readme_are_those_of_the_reports():
    text = (ROOT / 'README.md').read_text()
    rows = [line for line in text.splitlines() if line.startswith('|') and 'report.md)' in line]
    assert len(rows) > 5
    for row in rows:
        *_, alone, taught, gain, minutes, _ = (cell.strip(' *') for cell in row.split('|'))
        mean, low, high, report = re.fullmatch(
            r'\[(\S+) \((\S+) to (\S+)\)\]\((\S+)\)', gain
        ).groups()
        written = (ROOT / report).read_text()
        for shown in (f' {mean} | {low} to {high} |', f'| {alone} |', f'| {taught} |'):
            assert shown in written, row
        for shown in filter(None, minutes.split(', ')):
            assert re.search(rf'\| {shown} ± \S+ \| \d+ \|', written), row
