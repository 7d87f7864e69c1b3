from collections.abc import Callable
from typing import Any, TypeAlias

# A toolbox's network: an nn.Module, whose attributes type checkers do not know.
Network: TypeAlias = Any
# Makes a tap's value of the tapped module and its output.
TapReader: TypeAlias = Callable[[Any, Any], Any]
# Top, bottom, left, right in pixels of the preprocessed image.
Box: TypeAlias = tuple[int, int, int, int]
