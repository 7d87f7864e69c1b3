import importlib.metadata
import sys
import warnings


def complete_torchvision():
    """Make `import torchvision` work where a CUDA build of it stands beside a CPU-only torch.

    PyPI has torchvision as a CUDA build only; beside a CPU-only torch its operators are missing and its import fails
    (`operator torchvision::nms does not exist`), and with it that of mmpretrain and of mmdet's models. Declaring the two
    operators that the import looks up makes all its Python parts (the transforms) work. Does nothing where torchvision is
    not installed or works.

    Returns:
        bool: Whether the operators had to be declared.
    """
    try:
        version = importlib.metadata.version('torchvision')
    except importlib.metadata.PackageNotFoundError:
        return False
    try:
        import torchvision  # noqa: F401
        return False
    except RuntimeError as error:
        if 'torchvision::nms does not exist' not in str(error):
            raise
    import torch
    for name in [name for name in sys.modules if name.split('.')[0] == 'torchvision']:
        del sys.modules[name]
    torch.library.define('torchvision::nms', '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    torch.library.define('torchvision::qnms', '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    import torchvision  # noqa: F401
    warnings.warn(f'torchvision {version} is a build for CUDA beside a CPU-only torch: its operators are declared but cannot '
                  'run, its transforms work', stacklevel=2)
    return True
