"""The errors that the tools show as one message, and messages of others."""

from collections.abc import Iterator
from contextlib import contextmanager
from errno import EDQUOT, EEXIST, EFBIG, ENOSPC


class ConfigError(ValueError):
    """A wrong input: a config, data set, checkpoint or command line that cannot be meant.

    The message names the key, the value, what was expected and the nearest valid name. The tools
    show it as one message with exit status 1, as a `MachineError`; every other exception keeps its
    traceback.
    """


class MachineError(OSError):
    """What ended a run is neither its input nor its code: a full disk, a worker that was killed.

    The tools show it as one message with exit status 1, as a `ConfigError`.
    """


NO_ROOM = (EDQUOT, EFBIG, ENOSPC)


def shown_without_traceback(error: BaseException) -> bool:
    """Return whether an error's message alone says what is to be done."""
    full = isinstance(error, OSError) and error.errno in NO_ROOM
    return full or isinstance(error, ConfigError | MachineError)


def message_of(error: BaseException) -> str:
    """Return what an exception says, readable without its traceback."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        hint = ' (a folder is to be made there)' if error.errno == EEXIST else ''
        return f'{error.filename}: {error.strerror}{hint}'
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, ValueError | OSError | ImportError) and str(error):
        return str(error)
    # A KeyError says no more than the key, an AssertionError often nothing.
    text = str(error.args[0]) if error.args else ''
    if ' ' in text:
        return text
    return f'{type(error).__name__}: {text}' if text else type(error).__name__


PATH_ERRORS = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


@contextmanager
def wrong_paths(key: str = '') -> Iterator[None]:
    """Turn errors about a path that the user named into a ConfigError.

    Args:
        key: Where the config says it, for the message. Default: nowhere.
    """
    try:
        yield
    except PATH_ERRORS as error:
        text = message_of(error)
        raise ConfigError(f'{key}: {text}' if key else text) from error
