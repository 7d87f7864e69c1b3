import os

from mmengine import fileio


def require(path, what, advice, backend_args=None):
    """Raise a FileNotFoundError that says what is missing, where it is expected and how to get it.

    Args:
        path (str): A file or folder.
        what (str): Its name in the message.
        advice (str): How to prepare it.
    """
    if not path or not fileio.exists(path, backend_args=backend_args):
        where = path if '://' in str(path) else os.path.abspath(path or '')
        raise FileNotFoundError(f'no {what} {where}. {advice}')
