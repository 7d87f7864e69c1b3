from .distillation_oriented_sgd import DistillationOrientedSGD
from .member_optim_wrapper import MemberOptimWrapper
from .member_optim_wrapper_constructor import MemberOptimWrapperConstructor

__all__ = ['DistillationOrientedSGD', 'MemberOptimWrapper', 'MemberOptimWrapperConstructor']
