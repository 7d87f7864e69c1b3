"""Where mmkd's tools are: in the checkout, or in the installed package."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def tools_folder() -> Path:
    """Return the folder of the tools; a wheel has them as `mmkd/.mim/tools`."""
    installed = PACKAGE / '.mim' / 'tools'
    return installed if installed.is_dir() else PACKAGE.parent / 'tools'


def tool_path(name: str) -> Path:
    """Return the script of the tool `name`."""
    return tools_folder() / f'{name}.py'
