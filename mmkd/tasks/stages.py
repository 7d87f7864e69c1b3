"""Where a backbone's stages end."""

from torch import nn


def backbone_stages(backbone: nn.Module) -> list[str]:
    """Return the module paths, from the network, of the stages 1, 2, ... of `backbone`.

    Known are backbones that name their stages as the toolboxes' ResNets (`res_layers`) or their
    Swins and ConvNeXts (`stages`) do. A Swin's stage ends with its last block: the patch merging
    after it belongs to the next stage.

    Returns:
        Empty for other backbones.
    """
    names = getattr(backbone, 'res_layers', None)
    if (
        isinstance(names, (list, tuple))
        and names
        and all(isinstance(getattr(backbone, name, None), nn.Module) for name in names)
    ):
        return [f'backbone.{name}' for name in names]
    stages = getattr(backbone, 'stages', None)
    if not isinstance(stages, nn.ModuleList):
        return []
    paths = []
    for i, stage in enumerate(stages):
        blocks = getattr(stage, 'blocks', None)
        last = f'.blocks.{len(blocks) - 1}' if isinstance(blocks, nn.ModuleList) else ''
        paths.append(f'backbone.stages.{i}{last}')
    return paths
