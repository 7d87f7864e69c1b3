from .member_log_processor import MemberLogProcessor

__all__ = ['MemberLogProcessor']
