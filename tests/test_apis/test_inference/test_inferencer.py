"""Predictions of members, the ensemble and plain students for frames, and the files of them."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import weakref
from argparse import Namespace

import camera
import conftest
import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, PixelData

from mmkd.apis import MemberInferencer
from mmkd.apis.exporting import export
from mmkd.apis.inference.frames import Frame, Frames
from mmkd.apis.inference.inferencer import Predicted
from mmkd.apis.inference.run import infer, latency_table
from mmkd.apis.inference.writers import ResultWriter
from mmkd.utils.errors import ConfigError
from mmkd.utils.images import read_image

TASKS = ('det', 'seg', 'cls')
OF_TASK = dict(det='bboxes', seg='sem_seg', cls='pred_scores')


@pytest.fixture
def images(data):
    return data / 'images/val'


def run(checkpoint, source, out, **changes):
    """What tools/infer.py does with these arguments."""
    defaults = dict(
        model=checkpoint,
        input=[str(source)],
        out=out,
        config=None,
        member=None,
        device='cpu',
        score_thr=0.3,
        batch_size=3,
        limit=None,
        smooth=None,
        no_draw=False,
        latency=None,
    )
    infer(Namespace(**{**defaults, **changes}))


@pytest.mark.parametrize('task', TASKS)
def test_members_and_ensemble_predict_as_the_evaluation_does(checkpoints, images, task):
    from mmengine.registry import MODELS
    from mmengine.runner import Runner

    inferencer = MemberInferencer(
        checkpoints[task], members=['student2', 'ensemble'], device='cpu', score_thr=0
    )
    assert sorted(inferencer.model.members) == ['student1', 'student2']  # no teacher
    result = inferencer(images, batch_size=4, return_vis=True)
    predictions = result['predictions']
    assert [p['name'] for p in predictions] == sorted(p.name for p in images.iterdir())
    assert all(p['size'] == (64, 64) for p in predictions)
    assert len(result['visualization']) == 6
    cfg = inferencer.trained.cfg
    whole = MODELS.build(cfg.model).eval()
    whole.load_state_dict(torch.load(checkpoints[task])['state_dict'])
    cfg.test_dataloader.update(batch_size=6, num_workers=0, persistent_workers=False)
    (batch,) = Runner.build_dataloader(cfg.test_dataloader)
    by_name = {p['name']: p for p in predictions}
    found = 0
    for name, samples in whole.predict_members(batch, ['student2', 'ensemble']).items():
        for sample in samples:
            own = by_name[sample.img_path.rpartition('/')[2]][name][OF_TASK[task]]
            expected = dict(
                det=lambda s: s.pred_instances.bboxes,
                seg=lambda s: s.pred_sem_seg.data[0],
                cls=lambda s: s.pred_score,
            )[task](sample)
            torch.testing.assert_close(
                torch.as_tensor(np.array(own), dtype=torch.float32).reshape(expected.shape),
                expected.float(),
                rtol=1e-4,
                atol=1e-3,
            )
            found += expected.numel()
    assert found


def test_a_plain_student_and_the_exported_ensemble(checkpoints, images, tmp_path):
    plain = {}
    for name in ('student1', 'ensemble'):
        export(str(checkpoints['det']), name, str(tmp_path / f'{name}.pth'), None)
        plain[name] = MemberInferencer(tmp_path / f'{name}.pth', device='cpu')
        assert plain[name].names == [name]
        joint = MemberInferencer(checkpoints['det'], members=[name], device='cpu')
        one, other = (i(images, limit=2)['predictions'] for i in (plain[name], joint))
        assert one == other and name in one[0]
    with pytest.raises(ConfigError, match="unknown name 'student2'; did you mean 'student1'"):
        MemberInferencer(tmp_path / 'student1.pth', members=['student2'])
    measured = plain['ensemble'].latency(Frames(images, limit=3), warmup=1)
    latency = measured['ensemble']
    assert len(latency.whole) == len(latency.network) == 3
    numbers = latency.percentiles()
    assert 0 < numbers['network_p50'] < numbers['whole_p50'] <= numbers['whole_p95']
    assert latency_table(measured).splitlines()[1].split()[0] == 'ensemble'


def test_boxes_in_files(checkpoints, images, tmp_path, capfd):
    run(
        checkpoints['det'],
        images,
        tmp_path / 'out',
        member=['student1', 'ensemble'],
        score_thr=0,
        latency=2,
    )
    said = capfd.readouterr()
    assert '6 frames predicted, drawn and written in ' in said.out
    assert 'network p95' in said.out and said.err == ''  # no bar where there is no terminal
    from pycocotools.coco import COCO

    for name in ('student1', 'ensemble'):
        coco = COCO(tmp_path / f'out/{name}.json')
        assert len(coco.imgs) == 6 and coco.cats == {1: dict(id=1, name='polyp')}
        rows = list(csv.DictReader(open(tmp_path / f'out/{name}.csv')))
        assert len(rows) == len(coco.anns) > 0
        first = coco.anns[1]
        assert coco.imgs[first['image_id']]['file_name'] == rows[0]['image']
        x1, y1, width, height = first['bbox']
        assert float(rows[0]['x2']) == pytest.approx(x1 + width, abs=0.02)
        assert float(rows[0]['y2']) == pytest.approx(y1 + height, abs=0.02)
    drawn = read_image(next((tmp_path / 'out/frames').iterdir()))
    assert drawn.shape == (64 + 24, 2 * (64 + 4), 3)  # two titled panels


def test_masks_and_labels_in_files(checkpoints, images, tmp_path):
    options = dict(limit=4, no_draw=True)
    run(checkpoints['seg'], images, tmp_path / 'seg', **options)
    masks = sorted((tmp_path / 'seg/ensemble').glob('*.png'))
    assert len(masks) == 4 and not (tmp_path / 'seg/frames').exists()
    rows = list(csv.DictReader(open(tmp_path / 'seg/ensemble.csv')))
    shares = {}
    for row in rows:
        shares.setdefault(row['image'], {})[row['class']] = float(row['share'])
    for path in masks:
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert mask.shape == (64, 64) and set(np.unique(mask)) <= {0, 255}
        (image,) = [name for name in shares if name.startswith(path.stem)]
        assert shares[image].get('polyp', 0) == pytest.approx((mask == 255).mean(), abs=1e-4)
    run(checkpoints['cls'], images, tmp_path / 'cls', **options)
    rows = list(csv.DictReader(open(tmp_path / 'cls/ensemble.csv')))
    assert len(rows) == 4
    for row in rows:
        scores = [float(row['score: no polyp']), float(row['score: polyp'])]
        assert sum(scores) == pytest.approx(1, abs=1e-4)
        assert row['classes'] == ('no polyp', 'polyp')[int(np.argmax(scores))]
    with pytest.raises(ConfigError, match='over the frames of a video'):
        run(checkpoints['cls'], images, tmp_path / 'cls', smooth=(1, 2))


def test_images_with_one_stem_have_masks_of_their_own(tmp_path):
    writer = ResultWriter(tmp_path, 'student1', ('background', 'polyp'))
    names = ('a.png', 'a.jpg', 'case.12_000000', 'case.12_000001')  # two of a video, case.12.mp4
    for value, name in enumerate(names):
        value = value % 2
        sample = BaseDataElement()
        sample.set_data(dict(pred_sem_seg=PixelData(data=torch.full((1, 4, 4), value))))
        image = np.zeros((4, 4, 3), np.uint8)
        writer.add(Predicted(Frame(name, image), dict(student1=sample)))
    writer.close()
    masks = {p.name: read_image(p).max() for p in (tmp_path / 'student1').iterdir()}
    frames = {'case.12_000000.png': 0, 'case.12_000001.png': 255}
    assert masks == {'a.png': 0, 'a.jpg.png': 255, **frames}


def test_a_video_becomes_an_overlay_video(checkpoints, images, tmp_path):
    source = tmp_path / 'in.avi'
    video = cv2.VideoWriter(str(source), cv2.VideoWriter_fourcc(*'MJPG'), 10, (64, 64))
    files = sorted(images.iterdir())
    for path in [files[0]] * 3 + [files[1]]:
        video.write(read_image(path))
    video.release()
    shutil.copy(checkpoints['det'], tmp_path / 'epoch_1.pth')
    shutil.copy(checkpoints['det'].parent / 'config.py', tmp_path / 'config.py')
    tool = [sys.executable, conftest.ROOT / 'tools/infer.py', 'epoch_1.pth', source]
    options = ['--out', 'out', '--score-thr', '0', '--smooth', '2', '3', '--device', 'cpu']
    environment = dict(os.environ, PYTHONPROFILEIMPORTTIME='1')
    done = subprocess.run(
        [*tool, *options], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    conftest.check_imports(done.stderr, 'mmdet')
    # Nothing but what the tool says, on both streams.
    assert not [line for line in done.stderr.splitlines() if 'import time:' not in line]
    assert re.fullmatch(
        r'4 frames predicted, drawn and written in \S+ s: \S+ a second\n'
        r'wrote out/ensemble.csv\nwrote out/ensemble.json\nwrote out/overlay\.\w+\n',
        done.stdout,
    )
    written = list(Frames(next((tmp_path / 'out').glob('overlay.*'))))
    assert len(written) == 4 and written[0].image.shape == (64, 64, 3)
    content = json.loads((tmp_path / 'out/ensemble.json').read_text())
    by_frame = [0] * 4
    for annotation in content['annotations']:
        by_frame[annotation['image_id'] - 1] += 1
    assert by_frame[0] == 0 < by_frame[1]  # no box is in two frames at the first
    with pytest.raises(ConfigError, match='INPUT: no image, folder, list or video'):
        run('epoch_1.pth', tmp_path / 'none', tmp_path / 'nothing')
    assert not (tmp_path / 'nothing').exists()


def bytes_below(folder):
    return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def refused(expected, checkpoint, source, out, **changes):
    """Run what is to be refused; raise if it touched a file."""
    before = bytes_below(out.parent)
    with pytest.raises(ConfigError, match=expected):
        run(checkpoint, source, out, **changes)
    assert bytes_below(out.parent) == before


def test_results_never_replace_the_inputs_or_lie_among_them(checkpoints, images, tmp_path):
    source = tmp_path / 'in'
    shutil.copytree(images, source)
    (tmp_path / 'link').symlink_to('in')
    for out in (source, source / 'a/b', tmp_path / 'link', tmp_path / 'link/a'):
        refused(
            "OUT: .* (is|lies in) the input folder '.*in'; name", checkpoints['det'], source, out
        )
    refused('OUT: .* is the input folder', checkpoints['det'], tmp_path / 'link', source)
    # Frames, masks, an overlay video of an earlier run.
    case = tmp_path / 'case'
    for name in ('frames', 'ensemble', 'other'):
        shutil.copytree(images, case / name)
    replaced = 'OUT: results in .*case.* would replace the input .*case/'
    refused(f'{replaced}frames/', checkpoints['det'], case / 'frames', case)
    (picture,) = list((case / 'frames').iterdir())[:1]
    refused(f'{replaced}frames/', checkpoints['det'], picture, case)
    refused(f'{replaced}ensemble/', checkpoints['seg'], case / 'ensemble', case, no_draw=True)
    video = cv2.VideoWriter(
        str(case / 'overlay.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 10, (64, 64)
    )
    video.write(read_image(picture))
    video.release()
    refused(f'{replaced}overlay.avi', checkpoints['det'], case / 'overlay.avi', case)
    for name, make in (('soft', 'symlink_to'), ('hard', 'hardlink_to')):
        (tmp_path / name / 'frames').mkdir(parents=True)
        getattr(tmp_path / name / 'frames' / picture.name, make)(source / picture.name)
        refused('would replace the input .*in/', checkpoints['det'], source, tmp_path / name)
    # Beside the inputs there is room.
    run(checkpoints['det'], case / 'frames', case, no_draw=True, limit=1)
    before = bytes_below(case / 'other')
    run(checkpoints['det'], case / 'other', case, limit=1)
    assert bytes_below(case / 'other') == before and (case / 'ensemble.json').is_file()


def test_nothing_is_written_if_no_image_can_be_read(checkpoints, tmp_path):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in/a.png').write_bytes(b'no image')
    (tmp_path / 'in/b.png').write_bytes(b'')
    with (
        pytest.warns(UserWarning, match='left out'),
        pytest.raises(ConfigError, match='none of 2 images can be read'),
    ):
        run(checkpoints['det'], tmp_path / 'in', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_a_file_where_the_results_go(checkpoints, images, tmp_path):
    (tmp_path / 'file').write_text('')
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/frames').write_text('')
    for out in (tmp_path / 'file', tmp_path / 'out'):
        with pytest.raises(ConfigError, match=str(out)):
            run(checkpoints['det'], images, out, limit=1)


def test_drawn_frames_of_images_that_opencv_cannot_write(checkpoints, images, tmp_path, capfd):
    (tmp_path / 'in').mkdir()
    image = read_image(next(images.iterdir()))
    for name in ('a.webp', 'b.dib', 'c.PNG'):
        cv2.imencode(f'.{name[2:].lower()}', image)[1].tofile(tmp_path / 'in' / name)
    cv2.imencode('.pgm', image[..., 0])[1].tofile(tmp_path / 'in/d.pgm')
    run(checkpoints['cls'], tmp_path / 'in', tmp_path / 'out')
    drawn = sorted(path.name for path in (tmp_path / 'out/frames').iterdir())
    assert drawn == ['a.webp', 'b.dib.png', 'c.PNG', 'd.pgm.png']
    shutil.copy(tmp_path / 'in/c.PNG', tmp_path / 'picture')
    run(checkpoints['cls'], tmp_path / 'picture', tmp_path / 'one')
    assert (tmp_path / 'one/frames/picture.png').is_file()
    assert '1 frame predicted, drawn and written in' in capfd.readouterr().out


@pytest.mark.parametrize('device', ['banana', 'cuda:x', ['cpu']])
def test_what_is_no_device(device):
    with pytest.raises(ConfigError, match=r'^device: expected cpu, cuda, cuda:1, ..., got .*$'):
        MemberInferencer('nowhere.pth', device=device)


@pytest.mark.parametrize('device', ['meta', 'cuda:99'])
def test_a_device_that_cannot_be_used(device):
    with pytest.raises(ConfigError, match=rf"^device: '{device}' cannot be used here"):
        MemberInferencer('nowhere.pth', device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason='for a machine without a GPU')
def test_cuda_where_there_is_none():
    with pytest.raises(ConfigError, match=r"^device: 'cuda' cannot be used here"):
        MemberInferencer('nowhere.pth', device='cuda')


def test_wrong_arguments_of_a_call(checkpoints, images, tmp_path):
    inferencer = MemberInferencer(checkpoints['det'], device='cpu')
    for size in (0, -1, 1.5):
        expected = f'batch_size: expected an integer >= 1, got {size}'
        with pytest.raises(ConfigError, match=expected):
            inferencer(images, batch_size=size)
        with pytest.raises(ConfigError, match=expected):
            inferencer.stream(
                Frames(images), batch_size=size
            )  # before the first frame is asked for
    with pytest.raises(ConfigError, match='limit: expected an integer >= 1, got 0'):
        inferencer(images, limit=0)
    with pytest.raises(ConfigError, match='limit: Frames have their own'):
        inferencer(Frames(images), limit=2)
    with pytest.raises(ConfigError, match='warmup: expected an integer >= 0, got -1'):
        inferencer.latency(Frames(images, limit=1), warmup=-1)
    path = tmp_path / 'v.avi'
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10, (64, 64))
    video.write(np.zeros((64, 64, 3), np.uint8))
    video.release()
    for smooth in ((2,), (1, 2, 3), 'ab', 5):
        with pytest.raises(ConfigError, match='smooth: expected two integers 1 <= k <= n, got'):
            inferencer(path, smooth=smooth)


def test_a_camera_is_predicted_on_until_ctrl_c(checkpoints, images, tmp_path):
    pictures = [read_image(path) for path in sorted(images.iterdir())[:4]]
    tool = [sys.executable, conftest.ROOT / 'tools/infer.py', checkpoints['det']]
    options = ['--out', 'out', '--score-thr', '0', '--member', 'student1', '--device', 'cpu']
    with camera.stream(pictures, endless=True) as (address, sent):
        process = subprocess.Popen(
            [*tool, f'camera:{address}', *options, '--latency', '3'],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            # A background job of a shell script, as these tests may be, starts with it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        # The overlay is begun with the first frame; how soon its file grows depends on the codec.
        while process.poll() is None and not list((tmp_path / 'out').glob('overlay.*')):
            time.sleep(0.1)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err[-3000:]
    assert 'stopped: what was predicted so far is written' in out and 'batch 1' not in out
    count = int(re.search(r'(\d+) frames predicted', out).group(1))
    assert 0 < count <= len(sent)
    frames = list(Frames(next((tmp_path / 'out').glob('overlay.*'))))
    assert abs(len(frames) - count) <= 1 and frames[0].image.shape == (64, 64, 3)
    content = json.loads((tmp_path / 'out/student1.json').read_text())
    assert content['images'][0]['file_name'].startswith('camera_000000')
    assert content['annotations'] and (tmp_path / 'out/student1.csv').is_file()


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_ctrl_c_that_python_drops_is_obeyed(checkpoints, images, tmp_path, monkeypatch, capsys):
    """One that comes in a weak reference's callback, as while matplotlib draws."""
    draw = MemberInferencer.draw

    class Drawn:
        pass

    def interrupted(self, predicted):
        drawn = Drawn()
        kept = weakref.ref(drawn, lambda _: signal.raise_signal(signal.SIGINT))
        del drawn
        assert kept() is None
        return draw(self, predicted)

    monkeypatch.setattr(MemberInferencer, 'draw', interrupted)
    # A background job of a shell script, as these tests may be, starts with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run(checkpoints['det'], images, tmp_path / 'out', batch_size=1, score_thr=0)
        after = signal.getsignal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    out = capsys.readouterr().out
    assert 'stopped: what was predicted so far is written' in out and '1 frame predicted' in out
    assert after is signal.default_int_handler


def test_a_config_without_class_names_or_loading_step(checkpoints):
    from mmkd.apis.command_line import read_config

    cfg = read_config(checkpoints['det'].parent / 'config.py')
    cfg.test_dataloader.dataset.pipeline = cfg.test_dataloader.dataset.pipeline[1:]
    with pytest.raises(ConfigError, match="no 'LoadImageFromFile' to give frames to"):
        MemberInferencer(checkpoints['det'], cfg, device='cpu')
