from .best_member_hook import BestMemberHook
from .member_hook import MemberHook
from .member_visualization_hook import MemberVisualizationHook

__all__ = ['BestMemberHook', 'MemberHook', 'MemberVisualizationHook']
