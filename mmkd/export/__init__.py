from .export import export_member, member_plans, plain_config

__all__ = ['export_member', 'member_plans', 'plain_config']
