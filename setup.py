"""Packaging of mmkd; `configs/` and `tools/` go into the package as `mmkd/.mim`."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def requirements(name: str) -> list[str]:
    """Read a list of requirements."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line.split('#')[0].strip() for line in lines if line.split('#')[0].strip()]


class BuildWithMim(build_py):
    """Put `configs/`, `tools/` and `model-index.yml` into the package's `.mim` folder."""

    def run(self) -> None:
        """Build; an editable installation gets links to the checkout's own."""
        super().run()
        if self.editable_mode:
            place = ROOT / 'mmkd' / '.mim'
            place.mkdir(parents=True, exist_ok=True)
            for link in (place / name for name in ('configs', 'tools', 'model-index.yml')):
                if not (link.is_symlink() or link.exists()):
                    link.symlink_to(Path('..', '..', link.name))
            return
        for folder in ('configs', 'tools'):
            target = Path(self.build_lib) / 'mmkd' / '.mim' / folder
            shutil.copytree(
                ROOT / folder,
                target,
                dirs_exist_ok=True,
                ignore=shutil.ignore_patterns('__pycache__'),
            )
        shutil.copy(ROOT / 'model-index.yml', target.parent)


version = re.search(r"__version__ = '(.+)'", (ROOT / 'mmkd' / 'version.py').read_text()).group(1)
setup(
    name='mmkd',
    version=version,
    description='Online knowledge distillation and mutual learning for OpenMMLab',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmkd', 'mmkd.*']),
    package_data={'mmkd': ['py.typed', 'apis/report_page.html']},
    install_requires=requirements('runtime'),
    # Neither family is required: `Requires-Dist: mmengine` would overwrite the fork's files.
    extras_require={
        name: requirements(name)
        for name in (
            'onedl',
            'openmmlab',
            'pretrained',
            'onnx',
            'openvino',
            'report',
            'tests',
            'docs',
        )
    },
    entry_points=dict(console_scripts=['mmkd = mmkd.__main__:main']),
    cmdclass={'build_py': BuildWithMim},
)
