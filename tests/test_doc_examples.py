"""The examples of docs/examples run, and the README's config is the real recipe."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path.stem for path in (ROOT / 'docs/examples').glob('*.py'))
# All in one process of their own: importing the toolboxes takes most of the time, and what they
# register is not for the other tests.
RUN_ALL = """import json, runpy, sys, traceback
found = {}
for path in sys.argv[2:]:
    try:
        names = runpy.run_path(path, run_name='__main__')
        terms = names.get('terms') or names.get('log')
        found[path] = {key: float(value) for key, value in terms.items()}
    except BaseException:
        found[path] = traceback.format_exc()
json.dump(found, open(sys.argv[1], 'w'))
"""


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    """By example, the loss terms of its step, or the traceback that it ended with."""
    out = tmp_path_factory.mktemp('examples') / 'found.json'
    paths = [str(ROOT / f'docs/examples/{name}.py') for name in EXAMPLES]
    done = subprocess.run(
        [sys.executable, '-c', RUN_ALL, str(out), *paths], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {Path(path).stem: found for path, found in json.loads(out.read_text()).items()}


@pytest.mark.parametrize('name', EXAMPLES)
def test_an_example_runs_and_its_link_has_a_loss(outcomes, name):
    terms = outcomes[name]
    assert isinstance(terms, dict), terms
    links = [value for key, value in terms.items() if '/loss_' in key and '[' in key]
    assert links and all(math.isfinite(value) and value > 0 for value in links), terms


def test_the_config_of_the_readme_is_that_of_the_recipe(tmp_path):
    from mmengine.config import Config

    block = re.search(r'(?ms)^```python\n(_base_.*?)^```$', (ROOT / 'README.md').read_text())
    path = tmp_path / 'readme.py'
    path.write_text(block.group(1).replace("'../_base_/", f"'{ROOT}/configs/_base_/"))
    files = (path, ROOT / 'configs/mmkd/polyp_yolox_kdml.py')
    shown, real = (
        {k: v for k, v in Config.fromfile(file).to_dict().items() if not k.startswith('_')}
        for file in files
    )
    # What the README leaves out: the preprocessing, the last phase, and the teacher's seed.
    real['model'].pop('data_preprocessor')
    assert real.pop('custom_hooks')[:-1] == shown.pop('custom_hooks')
    real['model']['members']['teacher'].pop('seed')
    assert shown == real


def test_what_the_quickstart_adds_to_a_plain_config_trains(toolkit, data, tmp_path, monkeypatch):
    from mmkd.apis.command_line import read_config
    from mmkd.apis.training import build_runner
    from mmkd.export import config_text, plain_config

    monkeypatch.chdir(tmp_path)
    cfg = toolkit.small_config(data, tmp_path, **{'train_cfg.max_epochs': 1})
    Path('my_config.py').write_text(config_text(plain_config(cfg, 'student1')))
    text = (ROOT / 'docs/quickstart.md').read_text()
    block = re.search(r"(?ms)^```python\n(_base_ = 'my_config.py'.*?)^```$", text)
    Path('joint.py').write_text(block.group(1))
    cfg = read_config('joint.py')
    cfg.work_dir, cfg.launcher = 'work', 'none'
    build_runner(cfg).train()
    names = {path.name for path in Path('work').rglob('*.pth')}
    assert {'student1.pth', 'student2.pth', 'epoch_1.pth'} <= names


@pytest.mark.usefixtures('unformatted_configs', 'fresh_state')
def test_the_config_for_other_classes_finds_its_data(tmp_path, monkeypatch):
    from mmdet.utils import register_all_modules
    from mmengine.registry import DATASETS, MODELS, init_default_scope

    from mmkd.apis.command_line import read_config
    from mmkd.utils.images import write_image

    register_all_modules(False)
    monkeypatch.chdir(tmp_path)
    for split in ('train', 'val'):
        image = np.full((40, 40, 3), 9, np.uint8)
        (tmp_path / f'data/mine/images/{split}').mkdir(parents=True)
        write_image(tmp_path / f'data/mine/images/{split}/a.png', image)
        box = dict(id=1, image_id=1, bbox=[4, 4, 20, 20], area=400, iscrowd=0, category_id=2)
        content = dict(
            images=[dict(id=1, file_name='a.png', width=40, height=40)],
            annotations=[box],
            categories=[dict(id=1, name='small'), dict(id=2, name='large')],
        )
        file = tmp_path / f'data/mine/annotations/{split}.json'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    text = (ROOT / 'docs/quickstart.md').read_text()
    start = r"(?ms)^```python\n(_base_ = 'mmkd::mmkd/polyp_yolox_kdml_cpu.py'.*?)^```$"
    block = re.search(start, text)
    Path('mine.py').write_text(block.group(1))
    cfg = read_config('mine.py')
    init_default_scope('mmdet')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        sample = DATASETS.build(loader.dataset)[0]['data_samples']
        assert sample.gt_instances.labels.tolist() == [1]
    model = MODELS.build(cfg.model)
    heads = [network.bbox_head.num_classes for network in model.members.networks().values()]
    assert heads == [2, 2, 2]
