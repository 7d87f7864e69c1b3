import re
from collections.abc import Mapping
from typing import Any

from mmengine.visualization import MLflowVisBackend as _MLflowVisBackend

from mmkd.registry import VISBACKENDS


@VISBACKENDS.register_module()
class MLflowVisBackend(_MLflowVisBackend):
    """mmengine's MLflow backend with names that MLflow takes.

    MLflow refuses brackets, and with them the whole record: `student1/loss_kd[teacher:prediction]`
    becomes `student1/loss_kd.teacher.prediction`. Arguments as mmengine's. TensorBoard and W&B take
    mmkd's names as they are, grouped by what stands before the slash: the member.
    """

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Record a scalar."""
        super().add_scalar(plain_name(name), value, step, **kwargs)

    def add_scalars(
        self,
        scalar_dict: Mapping[str, Any],
        step: int = 0,
        file_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Record scalars."""
        plain = {plain_name(name): value for name, value in scalar_dict.items()}
        super().add_scalars(plain, step, file_path, **kwargs)


def plain_name(name: str) -> str:
    """Return a scalar's name with every character that MLflow refuses (on any system) replaced."""
    return re.sub(r'[^\w/. -]+', '.', name).strip('.')
