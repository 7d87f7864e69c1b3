from .member_loops import MemberTestLoop, MemberValLoop
from .resumable_train_loop import ResumableIterTrainLoop, ResumableTrainLoop

__all__ = ['MemberTestLoop', 'MemberValLoop', 'ResumableIterTrainLoop', 'ResumableTrainLoop']
