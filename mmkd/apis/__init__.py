"""What the tools call. `MemberInferencer` is imported when it is asked for: tools start at once."""

from typing import Any

__all__ = ['MemberInferencer']


def __getattr__(name: str) -> Any:
    if name == 'MemberInferencer':
        from mmkd.apis.inference.inferencer import MemberInferencer

        return MemberInferencer
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
