from .config_text import ReadableConfig, config_text, readable
from .export import export_member
from .plain import member_specs, plain_config, self_contained

__all__ = [
    'ReadableConfig',
    'config_text',
    'export_member',
    'member_specs',
    'plain_config',
    'readable',
    'self_contained',
]
