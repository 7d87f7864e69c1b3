"""train.py, test.py, export_student.py and report.py as a user runs them."""

import argparse
import json
import os
import pickle
import re
import subprocess
import sys

import browser
import cv2
import numpy as np
import pytest
import torch
from wrong_inputs import run_forked

from mmkd.apis import testing
from mmkd.export import member_specs
from mmkd.utils.errors import ConfigError


def run(*command, cwd):
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONPROFILEIMPORTTIME='1'),
        timeout=600,
    )


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    """Folder with config.py and work/, trained by tools/train.py for an epoch."""
    import conftest

    folder = tmp_path_factory.mktemp('run')
    cfg = conftest.small_config(data, folder / 'work')
    cfg.train_cfg.max_epochs = 1
    cfg.train_cfg.val_interval = 1
    cfg.dump(folder / 'config.py')
    done = run(
        conftest.ROOT / 'tools/train.py',
        'config.py',
        '--cfg-options',
        'optim_wrapper.optimizer.lr=0.002',
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    conftest.check_imports(done.stderr, 'mmdet')
    return folder


def metrics_of(folder):
    """The last metrics that a test run has written below `folder`."""
    files = [p for p in folder.glob('*/*.json') if p.parent.name == p.stem]
    return json.loads(max(files, key=lambda p: p.stat().st_mtime).read_text().splitlines()[-1])


def without_imports(text):
    return '\n'.join(line for line in text.splitlines() if not line.startswith('import time:'))


def test_exported_student_gives_the_same_metrics_in_plain_mmdet_without_mmkd(toolkit, trained):
    import mmdet

    done = run(
        toolkit.ROOT / 'tools/test.py',
        'config.py',
        'work/epoch_1.pth',
        '--work-dir',
        'tested',
        cwd=trained,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'ensemble' in done.stdout.splitlines()[-1] and 'bbox_mAP' in done.stdout
    toolkit.check_imports(done.stderr, 'mmdet')
    for noise in ('OneDL', 'faster_coco_eval', 'meshgrid'):  # of optional parts of the toolboxes
        assert noise not in done.stdout + without_imports(done.stderr)
    together = metrics_of(trained / 'tested')
    done = run(
        toolkit.ROOT / 'tools/export_student.py',
        'work/epoch_1.pth',
        'student2',
        'out/student2.pth',
        cwd=trained,
    )
    assert done.returncode == 0, done.stderr
    toolkit.check_imports(done.stderr, 'mmdet')
    done = run(
        '-c',
        toolkit.PLAIN_PROCESS,
        f'{mmdet.__path__[0]}/.mim/tools/test.py',
        'out/student2.py',
        'out/student2.pth',
        '--work-dir',
        'plain',
        cwd=trained,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    alone = metrics_of(trained / 'plain')
    pairs = {
        key: (value, together[f'student2/{key}'])
        for key, value in alone.items()
        if key.startswith('coco/')
    }
    assert len(pairs) == 6 and all(one == other for one, other in pairs.values()), pairs


def test_test_tool_with_members_out_and_show_dir(trained):
    options = ['--work-dir', 'some', '--out', 'some/p.pkl', '--show-dir', 'shown']
    command = ['tools/test.py', 'config.py', 'work/epoch_1.pth', *options]
    status, out, err = run_forked([*command, '--member', 'student1', 'ensemble'], trained)
    assert status == 0, err[-3000:]
    assert set(m.split('/')[0] for m in metrics_of(trained / 'some') if 'coco' in m) == {
        'student1',
        'ensemble',
    }
    for name in ('student1', 'ensemble'):
        assert len(pickle.loads((trained / f'some/p_{name}.pkl').read_bytes())) == 6
    assert len(list((trained / 'some').glob('*/shown/*.png'))) == 6


@pytest.mark.parametrize(
    'command',
    [['test.py', '--member', 'student1'], ['visualize.py', '--indices', '0', '--out', 'v']],
)
def test_an_evaluation_leaves_the_trainings_config_as_it_is(trained, command):
    """`infer.py`, `report.py` and the export read it; both tools have its work folder."""
    written = (trained / 'work/config.py').read_text()
    name, *options = command
    checkpoint = ['config.py', 'work/epoch_1.pth']
    status, _, err = run_forked([f'tools/{name}', *checkpoint, *options], trained)
    assert status == 0, err[-3000:]
    assert (trained / 'work/config.py').read_text() == written


def test_the_averages_of_a_preset_can_be_tested(toolkit, data, tmp_path):
    cfg = toolkit.small_config(data, tmp_path)
    cfg.model.sharing = 'mean_teacher'
    specs = member_specs(cfg)
    assert 'student1_ema' in specs
    checkpoint = dict(state_dict={f'members.{name}.x': torch.zeros(1) for name in specs})
    args = argparse.Namespace(member=['student1_ema'], checkpoint='c.pth', config='c.py')
    testing._choose_members(cfg, checkpoint, specs, args)
    assert cfg.test_cfg.members == ['student1_ema']
    del checkpoint['state_dict']['members.student2_ema.x']
    with pytest.raises(ConfigError, match='student2_ema'):
        testing._choose_members(cfg, checkpoint, specs, args)


def test_mmdets_inferencer_and_functions_run_the_ensemble_and_the_training_config(
    trained, data, monkeypatch
):
    from mmkd.apis.exporting import export

    monkeypatch.chdir(trained)
    export('work/epoch_1.pth', 'ensemble', 'out/ensemble.pth', None)
    code = f"""import glob
from mmdet.apis import DetInferencer, inference_detector, init_detector
folder = {str(data / 'images/val')!r}
inferencer = DetInferencer('out/ensemble.py', 'out/ensemble.pth', device='cpu', show_progress=False)
assert len(inferencer(folder, no_save_vis=True)['predictions']) == 6
image, found = sorted(glob.glob(folder + '/*'))[0], []
for config, checkpoint in (('out/ensemble.py', 'out/ensemble.pth'),
                           ('work/config.py', 'work/epoch_1.pth')):
    model = init_detector(config, checkpoint, device='cpu')
    assert model.dataset_meta['classes'] == ('polyp',), model.dataset_meta
    model.ensemble.score_thr = 0.0
    found.append(inference_detector(model, image).pred_instances)
assert len(found[0]) and found[0].bboxes.equal(found[1].bboxes)
try:
    init_detector('work/config.py', 'work/best_members/student1.pth', device='cpu')
except ValueError as error:
    assert 'has no weights of members' in str(error), error
else:
    raise AssertionError('a plain checkpoint was passed over in silence')
"""
    done = run('-c', code, cwd=trained)
    assert done.returncode == 0, done.stderr[-3000:]


def test_report(toolkit, trained):
    done = run(
        toolkit.ROOT / 'tools/report.py',
        'work',
        '--checkpoint',
        'work/epoch_1.pth',
        '--images',
        '2',
        cwd=trained,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    toolkit.check_imports(done.stderr, 'mmdet')
    table = (trained / 'work/report/table.txt').read_text()
    assert [line.split()[0] for line in table.splitlines()[:5]] == [
        'member',
        'teacher',
        'student1',
        'student2',
        'ensemble',
    ]
    assert 'report/exported/ holds the networks of this checkpoint, best_members/ each' in table
    for name in (
        'curves.png',
        'predictions.png',
        'exported/student1.pth',
        'exported/student1.py',
        'exported/ensemble.pth',
    ):
        assert (trained / 'work/report' / name).stat().st_size > 0

    pytest.importorskip('plotly')
    page = (trained / 'work/report/report.html').read_text()
    sources = re.findall(r'<(?:img|script|link)[^>]*? (?:src|href)="([^"]{0,30})', page)
    assert all(source.startswith('data:') for source in sources)  # it needs nothing else
    # Of 2 images: ground truth, three members, the ensemble, disagreement.
    assert len(sources) == 1 + 2 * 6 == 1 + page.count('data:image/jpeg')
    for said in (
        'coco/bbox_mAP_50',
        'teacher: prediction',
        'SigmoidRamp',
        'loss_kd[teacher:prediction]',
        'mmkd.OnlineDistiller',
        'tools/report.py',
    ):
        assert said in page, said


def test_the_report_in_a_browser(toolkit, trained, tmp_path):
    WebDriverWait = pytest.importorskip('selenium.webdriver.support.ui').WebDriverWait
    page = trained / 'work/report/report.html'
    if not page.is_file():
        pytest.skip('no page: test_report makes it')
    with browser.opened(page, tmp_path / 'profile') as driver:
        assert driver.get_log('browser') == []  # no error, nothing that could not be loaded
        assert driver.execute_script("return document.querySelectorAll('.main-svg').length") > 2
        case = driver.find_element('class name', 'case')
        assert case.find_element('tag name', 'output').text == 'ground truth'
        slide = "arguments[0].value = 1; arguments[0].dispatchEvent(new Event('input'))"
        driver.execute_script(slide, case.find_element('tag name', 'input'))
        shown = [i for i in case.find_elements('tag name', 'img') if i.is_displayed()]
        assert len(shown) == 1 and shown[0].get_attribute('naturalWidth') != '0'
        assert case.find_element('tag name', 'output').text == shown[0].get_attribute('alt')
        assert shown[0].get_attribute('alt').startswith('teacher')
        driver.set_window_size(500, 900)  # the narrowest that Chromium has
        # Plots follow the window a moment later.
        fits = 'return document.documentElement.scrollWidth <= window.innerWidth'
        WebDriverWait(driver, 30).until(lambda page: page.execute_script(fits))
        picture = cv2.imdecode(
            np.frombuffer(driver.get_screenshot_as_png(), np.uint8), cv2.IMREAD_COLOR
        )
    assert picture.std() > 10  # something is seen


def test_resume_goes_on_from_the_latest(trained):
    command = ['tools/train.py', 'config.py', '--resume']
    status, out, err = run_forked([*command, '--cfg-options', 'train_cfg.max_epochs=2'], trained)
    assert status == 0, err[-3000:]
    assert 'resumed epoch: 1' in out and (trained / 'work/epoch_2.pth').is_file()
