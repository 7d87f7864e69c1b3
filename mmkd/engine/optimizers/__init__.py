from .member_optim_wrapper import MemberOptimWrapper
from .member_optim_wrapper_constructor import MemberOptimWrapperConstructor

__all__ = ['MemberOptimWrapper', 'MemberOptimWrapperConstructor']
