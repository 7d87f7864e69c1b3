from .member_loops import MemberTestLoop, MemberValLoop

__all__ = ['MemberTestLoop', 'MemberValLoop']
