from collections.abc import Mapping
from typing import Any

import numpy as np
from mmengine.visualization import WandbVisBackend as _WandbVisBackend
from mmengine.visualization.vis_backend import force_init_env

from mmkd.registry import VISBACKENDS


@VISBACKENDS.register_module()
class WandbVisBackend(_WandbVisBackend):
    """mmengine's W&B backend with the steps that the other backends have, and without your files.

    mmengine's drops the step and W&B counts the calls, so that a picture of epoch 1 stands at call
    21 or so. Here each record has its `step`, and all is drawn over it: iterations for the
    training, epochs for the validation and its pictures. mmengine's also copies every Python file
    below the working folder into the run, a virtual environment's, too; here only if it is
    asked to.

    Args:
        log_code_name: Name of the copy of the code. Default: the code is not copied.
        kwargs: Arguments of mmengine's `WandbVisBackend`: `save_dir`, `init_kwargs`, ...
    """

    def __init__(self, *args: Any, log_code_name: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, log_code_name=log_code_name, **kwargs)

    def _init_env(self) -> None:
        super()._init_env()
        self._wandb.define_metric('*', step_metric='step')

    @force_init_env
    def add_config(self, config: Any, **kwargs: Any) -> None:
        """Record the config, and the code if it has a name."""
        if self._log_code_name is not None:
            super().add_config(config, **kwargs)
            return
        change = bool((self._init_kwargs or {}).get('allow_val_change', False))
        self._wandb.config.update(config.to_dict(), allow_val_change=change)

    @force_init_env
    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Record an RGB image."""
        self._log({name: self._wandb.Image(image)}, step)

    @force_init_env
    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Record a scalar."""
        self._log({name: value}, step)

    @force_init_env
    def add_scalars(
        self,
        scalar_dict: Mapping[str, Any],
        step: int = 0,
        file_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Record scalars."""
        self._log(scalar_dict, step)

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        self._wandb.log({**values, 'step': step}, commit=self._commit)
