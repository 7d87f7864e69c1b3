"""The reports in docs/studies are those of the results beside them."""

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
