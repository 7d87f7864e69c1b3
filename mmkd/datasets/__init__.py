from .class_paired_sampler import ClassPairedSampler  # noqa: F401
from .label_noise import LabelNoise  # noqa: F401
from .seen_unseen import SeenUnseen  # noqa: F401
from .skip_unreadable import SkipUnreadable  # noqa: F401
from .subset import LabeledSubset  # noqa: F401
from .unlabeled_images import UnlabeledImages  # noqa: F401
