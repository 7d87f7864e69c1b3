from .best_member_hook import BestMemberHook
from .each_member_hook import EachMemberHook
from .factor_pretrain_hook import FactorPretrainHook
from .l1_phase_hook import L1PhaseHook
from .member_hook import MemberHook
from .member_visualization_hook import MemberVisualizationHook
from .preemption_hook import PreemptionHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .study_result_hook import StudyResultHook
from .unreadable_hook import UnreadableHook

__all__ = [
    'BestMemberHook',
    'EachMemberHook',
    'FactorPretrainHook',
    'L1PhaseHook',
    'MemberHook',
    'MemberVisualizationHook',
    'PreemptionHook',
    'SafeCheckpointHook',
    'StudyResultHook',
    'UnreadableHook',
]
