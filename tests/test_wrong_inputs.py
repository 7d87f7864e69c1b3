"""Each wrong input of wrong_inputs_table.py ends with one message and nothing half-written.

The table as Markdown, with what the tools say: python tests/wrong_inputs.py
"""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')
from wrong_inputs_table import CASES, RunsCode  # noqa: E402

SCRIPT = Path(__file__).with_name('wrong_inputs.py')


@pytest.fixture(scope='module')
def results(request, tmp_path_factory):
    """What came of the selected cases, run in one go."""
    ids = [
        item.callspec.params['case'].id
        for item in request.session.items
        if item.path == request.path and hasattr(item, 'callspec')
    ]
    file = tmp_path_factory.mktemp('wrong') / 'results.json'
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *ids, '--json', str(file)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {result['id']: result for result in json.loads(file.read_text())}


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.id)
def test_wrong_input(results, case):
    result = results[case.id]
    assert result['ran'] is False, 'the checkpoint ran code'
    if case.works:
        assert result['status'] == 0, result['err'][-2000:]
        assert all(part in result['out'] for part in case.expected), result['out'][-2000:]
        return
    assert result['status'] not in (0, 'no end'), result['out'][-1000:]
    missing = [part for part in case.expected if part not in result['message']]
    assert not missing, result['message']
    assert 'Traceback' not in result['err']
    assert len(re.findall(r'^(?:\S+: )?error: ', result['err'], re.MULTILINE)) <= 1, result['err']
    assert case.leaves or not result['left'], result['left']


def test_the_pickle_runs_where_it_is_loaded_without_care(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(RunsCode()))
    assert (tmp_path / 'ran').exists()


def test_every_tool_has_wrong_inputs():
    tools = {
        path.relative_to(SCRIPT.parents[1]).as_posix()
        for path in (SCRIPT.parents[1] / 'tools').iterdir()
        if path.suffix in ('.py', '.sh')
    }
    setup = {f'tools/{name}.sh' for name in ('quickstart', 'run_tests', 'setup_env', 'slurm_tasks')}
    assert tools - setup == {case.command[0] for case in CASES}
