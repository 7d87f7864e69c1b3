from .member_loops import MemberTestLoop, MemberValLoop
from .resumable_train_loop import ResumableTrainLoop

__all__ = ['MemberTestLoop', 'MemberValLoop', 'ResumableTrainLoop']
