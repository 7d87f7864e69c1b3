"""Errors about data: each is a ConfigError, which the tools show as one message."""

from mmkd.utils.errors import ConfigError


class MissingData(ConfigError, FileNotFoundError):
    """A file or folder of a data set is not there."""


class ExistingData(ConfigError, FileExistsError):
    """The folder to write is there already."""


class UnreadableImage(ConfigError):
    """An image file is missing, empty, cut off or no image; the message begins with its path."""
