from .config_text import ReadableConfig, config_text, readable, unwritten
from .export import check_fit, export_member, inference_state
from .plain import inference_model, member_specs, plain_config, self_contained

__all__ = [
    'ReadableConfig',
    'check_fit',
    'config_text',
    'export_member',
    'inference_model',
    'inference_state',
    'member_specs',
    'plain_config',
    'readable',
    'self_contained',
    'unwritten',
]
