from .best_member_hook import BestMemberHook
from .member_hook import MemberHook

__all__ = ['BestMemberHook', 'MemberHook']
