"""Segmentation and classification as a user runs them: small demo configs, Runner and tools."""

import contextlib
import copy
import io
import itertools
import json
import math
import os
import runpy
import shutil
import subprocess
import sys
from collections import OrderedDict
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')
import conftest  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from mmkd.utils.errors import ConfigError  # noqa: E402

pytestmark = pytest.mark.usefixtures('unformatted_configs')
COUNTER = itertools.count()
MEMBERS = ('teacher', 'student1', 'student2')
DEMOS = dict(
    unet='polyp_unet_mixed_demo',
    segformer='polyp_segformer_mixed_demo',
    resnet='msi_resnet_kdml_demo',
)
TRAINED = ('unet', 'resnet')
METRICS = dict(
    unet=('mIoU', 'mDice', 'aAcc'),
    segformer=('mIoU', 'mDice', 'aAcc'),
    resnet=('accuracy/top1', 'binary/auc', 'binary/f1', 'binary/sensitivity', 'binary/specificity'),
)
PLAIN = conftest.PLAIN_PROCESS


def small(kind, data, work_dir, **changes):
    """The demo config on 32 px frames, two epochs of three steps."""
    cfg = Config.fromfile(conftest.ROOT / f'configs/mmkd/{DEMOS[kind]}.py')
    size = 32
    for name in ('train_dataloader', 'val_dataloader'):
        loader = cfg[name]
        loader.dataset = loader.dataset.get(
            'dataset', loader.dataset
        )  # without what balances the classes
        loader.batch_size = 4
        loader.dataset.data_root = f'{data}/'
        for step in loader.dataset.pipeline:
            if step.type == 'Resize':
                step.scale = size if kind == 'resnet' else (size, size)
    cfg.test_dataloader = copy.deepcopy(cfg.val_dataloader)
    if kind == 'resnet':
        for name in MEMBERS:
            width = 8 if name == 'teacher' else 4
            cfg.model.members[name].options.update(
                {
                    'backbone.base_channels': width,
                    'backbone.stem_channels': width,
                    'head.in_channels': 8 * width,
                }
            )
    else:
        cfg.model.data_preprocessor.size = (size, size)
    if kind == 'unet':
        for name in MEMBERS:
            width = 8 if name == 'teacher' else 4
            cfg.model.members[name].options.update(
                {
                    'backbone.base_channels': width,
                    'decode_head.in_channels': width,
                    'decode_head.channels': width,
                }
            )
    cfg.work_dir, cfg.launcher = str(work_dir), 'none'
    cfg.train_cfg.update(max_epochs=2, val_interval=1)
    cfg.default_hooks.logger.interval = 1
    for scheduler in cfg.param_scheduler:
        if scheduler.type == 'LinearLR':
            scheduler.end = 2
    cfg.merge_from_dict(changes)
    cfg.experiment_name = f'{kind}_{next(COUNTER)}_{os.getpid()}'
    cfg.visualizer.name = (
        cfg.experiment_name
    )  # mmengine has one a name, with the first one's folder
    return cfg


def run(*command, cwd):
    environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPROFILEIMPORTTIME='1')
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=600,
    )


def tool(name):
    return conftest.ROOT / 'tools' / name


def call(name, *arguments, cwd):
    """Run a tool in this process, which has all imports: the output, exit status and messages.

    mmengine's default scopes are set aside, as in a new process: two runners of one name and
    second would share one.
    """
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.chdir(cwd)
        patch.setattr(DefaultScope, '_instance_dict', OrderedDict())
        patch.setattr(sys, 'argv', [str(tool(name)), *map(str, arguments)])
        try:
            runpy.run_path(str(tool(name)), run_name='__main__')
        except SystemExit as end:
            status = end.code or 0
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def scalars(work_dir):
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'), key=lambda p: p.stat().st_mtime)
    return [json.loads(line) for line in files[-1].read_text().splitlines()]


def metrics_of(folder):
    files = [p for p in Path(folder).glob('*/*.json') if p.parent.name == p.stem]
    return json.loads(max(files, key=lambda p: p.stat().st_mtime).read_text().splitlines()[-1])


@pytest.fixture(scope='module')
def runs(data, tmp_path_factory):
    """Folders with config.py and work/ by kind, trained by tools/train.py when asked for."""
    folders = {}

    def trained(kind):
        if kind not in folders:
            folder = tmp_path_factory.mktemp(kind)
            small(kind, data, folder / 'work').dump(folder / 'config.py')
            done = run(tool('train.py'), 'config.py', cwd=folder)
            assert done.returncode == 0, done.stderr[-3000:]
            conftest.check_imports(done.stderr, dict(unet='mmseg', resnet='mmpretrain')[kind])
            folders[kind] = folder
        return folders[kind]

    return trained


def again(folder, work_dir):
    """The config that `folder` was trained with, for another work folder."""
    cfg = Config.fromfile(folder / 'config.py')
    cfg.work_dir, cfg.experiment_name = str(work_dir), f'again_{next(COUNTER)}'
    return cfg


def check_metrics(entries, kind):
    measured = [entry for entry in entries if f'ensemble/{METRICS[kind][0]}' in entry]
    for entry in measured:
        for name in (*MEMBERS, 'ensemble'):
            for metric in METRICS[kind]:
                assert 0 <= entry[f'{name}/{metric}'] <= 100, (name, metric)
    return len(measured)


@pytest.mark.parametrize('kind', TRAINED)
def test_members_have_the_figures_of_a_plain_validation(runs, kind, tmp_path):
    cfg = again(runs(kind), tmp_path)
    cfg.load_from = str(runs(kind) / 'work/epoch_2.pth')
    cfg.custom_hooks, cfg.default_hooks.checkpoint = [], dict(type='CheckpointHook')
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    metrics = runner.val()
    conftest.check_figures(runner, metrics, MEMBERS)
    assert set(metrics) >= {f'ensemble/{key}' for key in METRICS[kind]}


@pytest.mark.parametrize('kind', TRAINED)
def test_training_logs_measures_and_saves(runs, kind):
    work = runs(kind) / 'work'
    entries = scalars(work)
    assert check_metrics(entries, kind) == 2
    steps = [entry for entry in entries if 'loss' in entry]
    assert len(steps) == 6 and all(
        math.isfinite(value) for entry in steps for value in entry.values()
    )
    terms = dict(
        unet=(
            'student1/decode.loss_ce',
            'student1/loss_kd[teacher:prediction]',
            'student1/loss_ml[student2:feature]',
            'student2/loss_kd[teacher:feature]',
            'student2/loss_ml[student1:prediction]',
        ),
        resnet=(
            'student1/loss_task',
            'student1/loss_kd[teacher:prediction]',
            'student2/loss_ml[student1:prediction]',
        ),
    )[kind]
    assert set(terms) <= set(steps[-1])
    best = dict(unet='mDice', resnet='accuracy_top1')[kind]
    assert list(work.glob(f'best_ensemble_{best}_epoch_*.pth')) and (work / 'epoch_2.pth').is_file()
    assert {p.name for p in (work / 'best_members').iterdir()} == {
        f'{n}.{end}' for n in MEMBERS for end in ('pth', 'py')
    }


def test_segformers_train_and_are_measured(data, tmp_path):
    runner = Runner.from_cfg(small('segformer', data, tmp_path, **{'train_cfg.max_epochs': 1}))
    before = {key: value.clone() for key, value in runner.model.state_dict().items()}
    runner.train()
    assert check_metrics(scalars(tmp_path), 'segformer') == 1
    after = runner.model.state_dict()
    for name in MEMBERS:
        assert any(
            not torch.equal(before[key], after[key])
            for key in after
            if key.startswith(f'members.{name}.backbone')
        )


@pytest.mark.parametrize('kind', TRAINED)
def test_a_run_resumed_after_an_epoch_equals_the_unbroken_one(runs, tmp_path, kind):
    whole = torch.load(runs(kind) / 'work/epoch_2.pth', weights_only=False)['state_dict']
    half = torch.load(runs(kind) / 'work/epoch_1.pth', weights_only=False)['state_dict']
    cfg = again(runs(kind), tmp_path)
    cfg.resume, cfg.load_from = True, str(runs(kind) / 'work/epoch_1.pth')
    torch.manual_seed(12345)  # another process starts with other states
    runner = Runner.from_cfg(cfg)
    runner.train()
    resumed = runner.model.state_dict()
    assert runner.iter == 6 and resumed.keys() == whole.keys()
    assert [key for key, value in whole.items() if not torch.equal(value, resumed[key])] == []
    assert any(not torch.equal(half[key], resumed[key]) for key in half)


@pytest.fixture(scope='module')
def reports(runs):
    """Folders whose work/ has a report of epoch 2, by kind."""
    done = {}

    def reported(kind):
        if kind not in done:
            arguments = ('work', '--checkpoint', 'work/epoch_2.pth', '--images', '2')
            done[kind] = call('report.py', *arguments, cwd=runs(kind))
            assert done[kind].returncode == 0, done[kind].stderr[-3000:]
        return runs(kind), done[kind].stdout

    return reported


@pytest.mark.parametrize('kind', TRAINED)
def test_report(reports, kind):
    folder, printed = reports(kind)
    table = (folder / 'work/report/table.txt').read_text()
    lines = table.splitlines()
    assert table.strip() in printed
    assert [line.split()[0] for line in lines[:5]] == [
        'member',
        'teacher',
        'student1',
        'student2',
        'ensemble',
    ]
    assert (
        dict(unet='mDice', resnet='AUC')[kind] in lines[0]
        and 'parameters' in lines[0]
        and '32x32' in table
    )
    metrics = metrics_of(folder / 'work/report/logs')
    assert f'{metrics[f"student1/{METRICS[kind][0]}"]:.3f}' in lines[2]
    for name in (
        'curves.png',
        'predictions.png',
        'exported/student1.pth',
        'exported/student2.py',
        'exported/ensemble.pth',
    ):
        assert (folder / 'work/report' / name).stat().st_size > 0


@pytest.mark.parametrize('kind, measured', [('unet', True), ('resnet', False)])
def test_the_page_has_what_links_measured_and_how_the_training_was_made(reports, kind, measured):
    """The segmenters' links between features have a `GradientShare`, the others plain weights."""
    pytest.importorskip('plotly')
    folder, _ = reports(kind)
    page = (folder / 'work/report/report.html').read_text()
    plotted = [title in page for title in ("links' share of the gradient", "links' cosine")]
    plotted += [name in page for name in ('share_ml[student2:feature]', 'cosine_ml[student2:')]
    assert plotted == [measured] * 4
    assert ('GradientShare(' in page) == measured and 'not measured' in page
    assert 'SigmoidRamp(start_value=0.0, end_value=1.0' in page and 'a step of the training' in page
    assert 'tools/train.py config.py</pre>' in page.replace('\n', '')
    assert 'tools/report.py work --checkpoint' in page
    assert page.count(f'<td>{version("torch")}</td>') == 2  # of training and page


def test_a_report_without_the_trainings_logs_says_so(runs, tmp_path):
    (tmp_path / 'work').mkdir()
    for file in ('config.py', 'epoch_2.pth'):
        shutil.copy(runs('resnet') / 'work' / file, tmp_path / 'work')
    done = call('report.py', 'work', '--images', '1', cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    report = tmp_path / 'work/report'
    assert 'no curves: no */vis_data/scalars.json' in (report / 'table.txt').read_text()
    assert not (report / 'curves.png').exists() and 'curves.png' not in done.stdout
    pytest.importorskip('plotly')
    assert 'None: the work folder has no logs' in (report / 'report.html').read_text()


@pytest.mark.parametrize(
    'kind, package, count', [('unet', 'mmseg', 4), ('resnet', 'mmpretrain', 1)]
)
def test_an_exported_student_gives_the_same_metrics_without_mmkd(reports, kind, package, count):
    folder, _ = reports(kind)
    together = metrics_of(folder / 'work/report/logs')
    exported = folder / 'work/report/exported'
    assert 'mmkd' not in (exported / 'student2.py').read_text()
    plain_tool = Path(__import__(package).__path__[0]) / '.mim/tools/test.py'
    done = run(
        '-c',
        PLAIN,
        plain_tool,
        exported / 'student2.py',
        exported / 'student2.pth',
        '--work-dir',
        f'plain_{kind}',
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    alone = metrics_of(folder / f'plain_{kind}')
    pairs = {
        key: (value, together[f'student2/{key}'])
        for key, value in alone.items()
        if 'time' not in key
    }
    assert len(pairs) >= count and all(one == other for one, other in pairs.values()), pairs


def test_a_plain_process_cannot_import_mmkd(tmp_path):
    script = tmp_path / 'script.py'
    script.write_text('import mmkd')
    done = run('-c', PLAIN, script, cwd=tmp_path)
    assert done.returncode != 0 and 'mmkd' in done.stderr


@pytest.mark.parametrize('kind', TRAINED)
def test_an_exported_student_predicts_what_the_member_does(reports, kind):
    folder, _ = reports(kind)
    cfg = Config.fromfile(folder / 'config.py')
    cfg.work_dir, cfg.load_from, cfg.experiment_name = (
        str(folder / 'look'),
        str(folder / 'work/epoch_2.pth'),
        f'look_{kind}',
    )
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    exported = folder / 'work/report/exported'
    plain = MODELS.build(Config.fromfile(exported / 'student1.py').model)
    plain.load_state_dict(torch.load(exported / 'student1.pth', weights_only=True)['state_dict'])
    plain.eval()
    runner.model.eval()
    for batch in runner.build_dataloader(cfg.test_dataloader):
        together = runner.model.predict_members(copy.deepcopy(batch), ['student1'])['student1']
        with torch.no_grad():
            alone = plain.test_step(copy.deepcopy(batch))
        for one, other in zip(alone, together):
            values = (
                (one.pred_score, other.pred_score)
                if kind == 'resnet'
                else (one.seg_logits.data, other.seg_logits.data)
            )
            torch.testing.assert_close(*values, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize('kind', ['unet', 'segformer', 'resnet'])
def test_member_panels_and_feature_panels(data, tmp_path, kind):
    from mmkd.visualization import feature_panels, member_panels

    runner = Runner.from_cfg(small(kind, data, tmp_path))
    dataset = runner.build_dataloader(runner.cfg.test_dataloader).dataset
    model = runner.model.eval()
    picture = member_panels(model, dataset, 1)
    assert picture.dtype == 'uint8' and picture.shape == (
        24 + 256,
        6 * (256 + 4),
        3,
    )  # truth, 3 members, ensemble, difference
    panels = [picture[24:, i * 260 : i * 260 + 256] for i in range(6)]
    for panel in panels[:2]:
        assert panel.std() > 0
    assert (panels[0] != panels[5]).any()
    maps = feature_panels(model, dataset, 1)
    if kind == 'resnet':  # logits of classes are no maps
        assert maps is None
    else:
        assert maps.dtype == 'uint8' and maps.shape[0] > 2 * 256 and maps.shape[2] == 3


@pytest.mark.parametrize('kind', TRAINED)
def test_visualize_tool(runs, kind):
    folder = runs(kind)
    arguments = ('config.py', 'work/epoch_2.pth', '--out', 'shown', '--indices', '0', '3')
    done = call('visualize.py', *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    kinds = ('members', 'features') if kind == 'unet' else ('members',)
    expected = {f'{i:05d}_{one}.png' for i in (0, 3) for one in kinds}
    assert {p.name for p in (folder / 'shown').iterdir()} == expected
    assert (
        set(map(lambda line: Path(line).name, done.stdout.splitlines()[-len(expected) :]))
        == expected
    )


def test_pictures_of_images_with_one_name(runs):
    """Folders of classes may have them: each picture has its place in the name."""
    folder = runs('resnet')
    cfg = Config.fromfile(folder / 'config.py')
    root = Path(folder / cfg.test_dataloader.dataset.data_root)
    images = sorted(p for p in root.rglob('*.png') if p.is_file())[:2]
    for name, image in zip(('a', 'b'), images):
        (folder / 'twins' / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(image, folder / 'twins' / name / '1.png')
    dataset = dict(cfg.test_dataloader.dataset, data_root='twins', data_prefix='', ann_file='')
    dataset.pop('split', None)
    changes = f'test_dataloader = dict(dataset=dict(_delete_=True, **{dataset!r}))'
    (folder / 'twins.py').write_text(f"_base_ = 'config.py'\n{changes}\n")
    arguments = ('twins.py', 'work/epoch_2.pth', '--out', 'of_twins', '--no-features')
    done = call('visualize.py', *arguments, '--indices', '0', '1', cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {p.name for p in (folder / 'of_twins').iterdir()}
    assert found == {'1_0_members.png', '1_1_members.png'}
    done = call('visualize.py', *arguments, '--names', '1.png', cwd=folder)
    assert done.returncode != 0 and "2 images of the test set are called '1.png'" in done.stderr


def test_visualize_tool_with_a_wrong_name(runs):
    arguments = ('config.py', 'work/epoch_2.pth', '--out', 'wrong', '--names', '00009.png')
    done = call('visualize.py', *arguments, cwd=runs('unet'))
    assert (
        done.returncode != 0
        and "--names: unknown name '00009.png'" in done.stderr
        and 'Traceback' not in done.stderr
    )
    assert not (runs('unet') / 'wrong').exists()


@pytest.mark.parametrize('kind, features', [('unet', True), ('unet', False), ('resnet', True)])
def test_the_hook_hands_its_pictures_to_the_visualizer(data, tmp_path, kind, features):
    cfg = small(kind, data, tmp_path, **{'train_cfg.max_epochs': 2})
    cfg.custom_hooks.append(
        dict(type='mmkd.MemberVisualizationHook', indices=[0, 4], interval=2, features=features)
    )
    runner = Runner.from_cfg(cfg)
    given = []
    original = runner.visualizer.add_image

    def add_image(name, image, step=0):
        given.append((name, step, image.shape[2]))
        original(name, image, step)

    runner.visualizer.add_image = add_image
    runner.train()
    names = [name.replace('_', '/') for name, _, _ in given]
    both = features and kind == 'unet'
    assert names == [
        f'{one}/{index}'
        for index in (0, 4)
        for one in (('members', 'features') if both else ('members',))
    ]
    assert (
        all(channels == 3 for _, _, channels in given) and len({step for _, step, _ in given}) == 1
    )
    (backend,) = (
        runner.visualizer._vis_backends.values()
    )  # one visualizer a process: its folder may be another test's
    for name, step, _ in given:
        assert (Path(backend._img_save_dir) / f'{name}_{step}.png').is_file()


def test_the_hook_changes_no_training(runs, tmp_path):
    cfg = again(runs('unet'), tmp_path)
    cfg.custom_hooks.append(dict(type='mmkd.MemberVisualizationHook', indices=[0]))
    runner = Runner.from_cfg(cfg)
    runner.train()
    without = torch.load(runs('unet') / 'work/epoch_2.pth', weights_only=False)['state_dict']
    assert all(torch.equal(value, without[key]) for key, value in runner.model.state_dict().items())


@pytest.mark.parametrize(
    'options, message',
    [
        (
            dict(indices=[6]),
            'MemberVisualizationHook.indices: 6, but the validation set has 6 images',
        ),
        (dict(indices=[-1]), 'MemberVisualizationHook.indices: .* got -1'),
        (dict(interval=0), 'MemberVisualizationHook.interval: expected an integer >= 1'),
    ],
)
def test_wrong_arguments_of_the_hook(data, tmp_path, options, message):
    cfg = small('unet', data, tmp_path)
    cfg.custom_hooks.append(dict(type='mmkd.MemberVisualizationHook', **options))
    with pytest.raises(ValueError, match=message):
        Runner.from_cfg(cfg).train()


# ---------------------------------------------------------------- data that is not there


@pytest.fixture
def broken(data, tmp_path):
    """A copy of the synthetic set, to be broken."""
    shutil.copytree(data, tmp_path / 'set')
    return tmp_path / 'set'


def segmentation_set(root, **changes):
    from mmengine.registry import DATASETS

    return DATASETS.build(
        dict(
            dict(
                type='mmkd.PolypSegmentation',
                data_root=f'{root}/',
                img_suffix='.png',
                pipeline=[],
                _scope_='mmseg',
                data_prefix=dict(img_path='images/train', seg_map_path='masks/train'),
            ),
            **changes,
        )
    )


def classification_set(root, **changes):
    from mmengine.registry import DATASETS

    return DATASETS.build(
        dict(
            dict(
                type='mmkd.FolderClassification',
                data_root=f'{root}/',
                data_prefix='images/train',
                ann_file='labels/train.txt',
                metainfo=dict(classes=('no polyp', 'polyp')),
                pipeline=[],
                _scope_='mmpretrain',
            ),
            **changes,
        )
    )


def test_whole_sets_load(data):
    assert len(segmentation_set(data)) == 12 and len(classification_set(data)) == 12
    assert segmentation_set(data).metainfo['classes'] == ('background', 'polyp')
    item = classification_set(data).get_data_info(3)
    name, label = (data / 'labels/train.txt').read_text().splitlines()[3].split()
    assert item['img_path'].endswith(f'images/train/{name}') and item['gt_label'] == int(label)


@pytest.mark.parametrize(
    'missing, what',
    [
        ('images', r'folder of images \(data_prefix.img_path\)'),
        ('masks', r'folder of label maps \(data_prefix.seg_map_path\)'),
    ],
)
def test_segmentation_without_a_folder(broken, missing, what):
    shutil.rmtree(broken / missing)
    advice = (
        rf'no {what} {broken}/{missing}/train\. '
        rf'Prepare it: `python tools/convert_polyp.py IMAGES MASKS {broken}/'
    )
    with pytest.raises(FileNotFoundError, match=advice):
        segmentation_set(broken)


def test_segmentation_with_another_suffix(broken):
    with pytest.raises(
        FileNotFoundError, match=r"no image that ends in '.jpg' in .*images/train \(img_suffix\)"
    ):
        segmentation_set(broken, img_suffix='.jpg')


def test_segmentation_without_some_label_maps(broken):
    for name in ('00002.png', '00005.png'):
        (broken / 'masks/train' / name).unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r'2 of 12 images have no label map in .*: 00002.png, 00005.png',
    ):
        segmentation_set(broken)


@pytest.mark.parametrize(
    'missing, what', [('images', 'image folder'), ('labels', 'list of images')]
)
def test_classification_without_a_file(broken, missing, what):
    shutil.rmtree(broken / missing)
    with pytest.raises(
        FileNotFoundError, match=f'no {what} {broken}/{missing}/train.*one folder a class below it'
    ):
        classification_set(broken)


@pytest.mark.parametrize(
    'line, message',
    [
        ('00003.png', "line 4: expected 'name label', got '00003.png'"),
        ('00003.png polyp', "line 4: expected 'name label'"),
        ('00003.png -1', "line 4: expected 'name label'"),
        ('00003.png 2', 'line 4: label 2 of 2 classes'),
        ('', "line 4: expected 'name label', got ''"),
    ],
)
def test_wrong_lines_of_a_list(broken, line, message):
    path = broken / 'labels/train.txt'
    lines = path.read_text().splitlines()
    lines[3] = line
    path.write_text('\n'.join(lines) + '\n')
    with pytest.raises(ValueError, match=message):
        classification_set(broken)


def test_classification_from_folders(data, tmp_path):
    names = [line.split() for line in (data / 'labels/train.txt').read_text().splitlines()]
    for name, label in names:
        folder = tmp_path / 'set' / ('polyp' if label == '1' else 'clear')
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / 'images/train' / name, folder / name)
    dataset = classification_set(tmp_path / 'set', data_prefix='', ann_file='', metainfo=None)
    assert tuple(dataset.CLASSES) == ('clear', 'polyp') and len(dataset) == 12
    assert sum(dataset.get_data_info(i)['gt_label'] for i in range(12)) == sum(
        label == '1' for _, label in names
    )


def test_training_without_data_ends_with_the_advice(data, tmp_path):
    cfg = small(
        'resnet', data, tmp_path / 'work', **{'train_dataloader.dataset.data_root': 'nowhere/'}
    )
    with pytest.raises(
        ConfigError,
        match='train_dataloader.dataset: no image folder .*nowhere/images/train.*'
        'msi_resnet_kdml_demo.py needs no',
    ):
        Runner.from_cfg(cfg).train()
