from mmkd.utils.packages import installed

from .class_paired_sampler import ClassPairedSampler  # noqa: F401
from .skip_unreadable import SkipUnreadable  # noqa: F401
from .subset import LabeledSubset  # noqa: F401

if installed('mmdet'):
    from .polyp_detection import PolypDetection  # noqa: F401
if installed('mmseg'):
    from .polyp_segmentation import PolypSegmentation  # noqa: F401
if installed('mmpretrain'):
    from .folder_classification import FolderClassification  # noqa: F401
