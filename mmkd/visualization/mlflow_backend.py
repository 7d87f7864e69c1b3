import re

from mmengine.visualization import MLflowVisBackend as _MLflowVisBackend

from mmkd.registry import VISBACKENDS


@VISBACKENDS.register_module()
class MLflowVisBackend(_MLflowVisBackend):
    """mmengine's MLflow backend with names that MLflow takes: it refuses brackets, and with them the whole record.

    `student1/loss_kd[teacher:prediction]` becomes `student1/loss_kd.teacher.prediction`. Arguments as mmengine's. TensorBoard and
    W&B take mmkd's names as they are (TensorBoard shows `_` for a bracket), grouped by what stands before the slash: the member.
    """

    def add_scalar(self, name, value, step=0, **kwargs):
        """Record a scalar."""
        super().add_scalar(plain_name(name), value, step, **kwargs)

    def add_scalars(self, scalar_dict, step=0, file_path=None, **kwargs):
        """Record scalars."""
        super().add_scalars(
            {plain_name(name): value for name, value in scalar_dict.items()},
            step,
            file_path,
            **kwargs,
        )


def plain_name(name):
    """Return a scalar's name with every character that MLflow refuses (on any system) replaced."""
    return re.sub(r'[^\w/. -]+', '.', name).strip('.')
