"""Check the installation part by part and print how to fix each problem: python tools/doctor.py

Exit status 1 if something that mmkd needs is missing or broken. Imports nothing of mmkd or torch
itself: each check runs in a process of its own, so that a crashing library is one problem and not
the end.
"""

import argparse
import importlib.metadata as metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / 'requirements'
SETUP = 'bash tools/setup_env.sh'
# import name: (distribution of the fork, original distribution, whether mmkd needs it in any case)
FAMILY = {
    'mmengine': ('onedl-mmengine', 'mmengine', True),
    'mmcv': ('onedl-mmcv', 'mmcv', True),
    'mmdet': ('onedl-mmdetection', 'mmdet', True),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation', False),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain', False),
}
LIBRARIES = {
    'numpy': 'numpy',
    'cv2': 'opencv-python',
    'matplotlib': 'matplotlib',
    'ensemble_boxes': 'ensemble-boxes',
    'faster_coco_eval': 'faster-coco-eval',
    'pycocotools.coco': 'pycocotools',
}
OPS = (
    'import torch; from mmcv.ops import nms; b = torch.tensor([[0., 0., 2., 2.]]); '
    'nms(b, torch.ones(1), 0.5); print("NMS ran")'
)
BUILD_OPS = (
    '{py} -m pip install -r requirements/build.txt && '
    'CFLAGS="-O2 -g0" MAX_JOBS=2 MMCV_WITH_OPS=1 {py} -m pip install '
    '--no-build-isolation --no-cache-dir --force-reinstall --no-deps {mmcv}   (or: ' + SETUP + ')'
)


class Faults(list):
    """The parts at fault so far; prints each check as it is done."""

    def good(self, part: str, text: str) -> None:
        """Print a part that works."""
        print(f'  ok     {part}: {text}')

    def note(self, part: str, text: str, mend: str | None = None) -> None:
        """Print what mmkd can do without."""
        print(f'  note   {part}: {text}' + (f'\n         -> {mend}' if mend else ''))

    def bad(self, part: str, text: str, mend: str) -> None:
        """Print a part at fault, and how to fix it."""
        print(f'  FAULT  {part}: {text}\n         -> {mend}')
        self.append(part)


def probe(code: str) -> tuple[bool, str]:
    """Run Python code in a new process; return whether it worked, and its last line."""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else f'exit status {done.returncode}'


def version_of(distribution: str) -> str | None:
    """Return the installed version, None without one."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> tuple[int, ...]:
    """Return the first three numbers of a version."""
    return tuple(int(n) for n in re.findall(r'\d+', version.split('+')[0])[:3])


def minimum_of(distribution: str) -> str | None:
    """Return the lowest version that requirements/*.txt ask for, None without one."""
    for file in sorted(REQUIREMENTS.glob('*.txt')):
        found = re.search(rf'^{re.escape(distribution)}>=([\d.]+)', file.read_text(), re.MULTILINE)
        if found:
            return found.group(1)
    return None


def check_python(faults: Faults) -> None:
    """Check the version of Python."""
    text = f'{sys.version.split()[0]} at {sys.executable}'
    if sys.version_info < (3, 10):  # noqa: UP036
        faults.bad(
            'python', text, f'mmkd needs 3.10 or newer: MMKD_PYTHON=/path/to/python3.11 {SETUP}'
        )
    else:
        faults.good('python', text)


def check_torch(faults: Faults) -> None:
    """Check torch and what goes with it."""
    ok, text = probe(
        'import torch; '
        'print(torch.__version__, torch.version.cuda or "", int(torch.cuda.is_available()))'
    )
    if not ok:
        faults.bad('torch', text, f'{SETUP}   (or: {sys.executable} -m pip install torch==2.13.0)')
        return
    version, *cuda, usable = text.split()
    faults.good('torch', f'{version}, ' + (f'CUDA {cuda[0]}' if cuda else 'CPU build'))
    if shutil.which('nvidia-smi') and usable == '0':
        faults.note(
            'torch',
            'this machine has an NVIDIA driver, but torch sees no GPU',
            'a CUDA build of torch that the driver serves: https://pytorch.org/get-started/locally',
        )
    check_torchvision(faults, version)


def check_torchvision(faults: Faults, torch: str) -> None:
    """Check that torchvision is the one for this torch, and can be imported."""
    version = version_of('torchvision')
    if version is None:
        faults.note('torchvision', 'not installed; only classification (mmpretrain) needs it')
        return
    pins = [
        re.search(r'==([\d.]+)', r)
        for r in metadata.requires('torchvision') or []
        if re.match(r'torch\b(?!vision)', r)
    ]
    wanted = next((pin.group(1) for pin in pins if pin), None)
    if wanted and numbers(wanted) != numbers(torch):
        faults.bad(
            'torchvision',
            f'{version} goes with torch {wanted}, not with {torch}',
            f'{sys.executable} -m pip install torch=={wanted}, or the torchvision for torch '
            f'{torch}',
        )
        return
    ok, text = probe('import torchvision')
    if ok:
        faults.good('torchvision', version)
    elif 'torchvision::nms does not exist' in text:
        faults.note(
            'torchvision',
            f'{version} is a CUDA build beside a CPU-only torch: mmkd works with it, the plain '
            'toolboxes do not',
            f"torchvision's CPU build (https://pytorch.org/get-started/locally), or {SETUP}",
        )
    else:
        faults.bad(
            'torchvision',
            text,
            f'{sys.executable} -m pip install --force-reinstall --no-deps torchvision=={version}',
        )


def check_family(faults: Faults) -> None:
    """Check OpenMMLab's packages and mmcv's compiled ops."""
    for module, (fork, original, needed) in FAMILY.items():
        found = {name: version_of(name) for name in (fork, original) if version_of(name)}
        if len(found) == 2:
            faults.bad(
                module,
                f'both {fork} {found[fork]} and {original} {found[original]} are installed, one '
                'over the other',
                f'{sys.executable} -m pip uninstall -y {fork} {original}; then {SETUP}',
            )
            continue
        if not found:
            part = 'segmentation' if module == 'mmseg' else 'classification'
            if needed:
                faults.bad(module, 'not installed', SETUP)
            else:
                faults.note(
                    module,
                    f'not installed; only {part} needs it',
                    f"{sys.executable} -m pip install '{fork}'",
                )
            continue
        name, version = next(iter(found.items()))
        minimum = minimum_of(name)
        if minimum and numbers(version) < numbers(minimum):
            faults.bad(
                module,
                f'{name} {version} is older than {minimum}',
                f"{sys.executable} -m pip install '{name}>={minimum}'",
            )
            continue
        # The shim for a CUDA build of torchvision beside a CPU-only torch lives in mmkd.
        ok, text = probe(('import mmkd, ' if module == 'mmpretrain' else 'import ') + module)
        if ok:
            faults.good(module, f'{name} {version}')
        else:
            faults.bad(module, f'{name} {version} cannot be imported: {text}', SETUP)
    if version_of('onedl-mmcv') or version_of('mmcv'):
        ok, text = probe(OPS)
        if ok:
            faults.good('mmcv ops', text)
        else:
            faults.bad(
                'mmcv ops',
                f'{text} (no compiled ops, or built for another torch)',
                BUILD_OPS.format(
                    py=sys.executable, mmcv='onedl-mmcv' if version_of('onedl-mmcv') else 'mmcv'
                ),
            )


def check_libraries(faults: Faults) -> None:
    """Check the other libraries."""
    for module, distribution in LIBRARIES.items():
        ok, text = probe(f'import {module}')
        if ok:
            faults.good(module.split('.')[0], version_of(distribution) or 'imports')
        elif '.so' in text and version_of(
            distribution
        ):  # OpenCV's wheel needs what small machines lack
            faults.bad(
                module,
                text,
                'a system library is missing; for libGL on Debian and Ubuntu: apt-get install '
                'libgl1 libglib2.0-0',
            )
        else:
            faults.bad(module, text, f'{sys.executable} -m pip install {distribution}')


def check_mmkd(faults: Faults) -> None:
    """Check mmkd itself."""
    ok, text = probe(
        'import mmkd, os; print(mmkd.__version__, "from", os.path.dirname(mmkd.__file__))'
    )
    if not ok:
        faults.bad(
            'mmkd',
            text,
            f'{sys.executable} -m pip install --no-build-isolation -e .   (in the checkout)',
        )
        return
    faults.good('mmkd', text)
    ok, text = probe(
        'import mmkd; from mmengine.registry import MODELS; '
        'assert MODELS.get("mmkd.OnlineDistiller")'
    )
    if ok:
        faults.good('registry', "mmkd.OnlineDistiller is registered in mmengine's scope 'mmkd'")
    else:
        faults.bad('registry', text, SETUP)


def main() -> None:
    """Run all checks."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    faults = Faults()
    for check in (check_python, check_torch, check_family, check_libraries, check_mmkd):
        check(faults)
    print(f'{len(faults)} fault(s): {", ".join(faults)}' if faults else 'no fault found')
    sys.exit(1 if faults else 0)


if __name__ == '__main__':
    main()
