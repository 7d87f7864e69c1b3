"""What is installed."""

import importlib.util


def installed(package: str) -> bool:
    """Return whether a toolbox (`mmdet`, `mmseg`, `mmpretrain`) is installed.

    mmkd works with any of them alone.
    """
    return importlib.util.find_spec(package) is not None
