import copy
from pathlib import Path
from typing import Any

# Arguments of metrics that name files.
FILE_ARGUMENTS = ('outfile_prefix', 'out_file_path', 'output_dir')


def evaluator_config_of(evaluator: Any, name: str) -> Any:
    """Return the config of an evaluator or a metric with `name` in the names of its files."""
    if isinstance(evaluator, (list, tuple)):
        return [evaluator_config_of(metric, name) for metric in evaluator]
    cfg = copy.deepcopy(evaluator)
    if 'metrics' in cfg:  # an evaluator with a type
        cfg['metrics'] = evaluator_config_of(cfg['metrics'], name)
    for key in FILE_ARGUMENTS:
        if isinstance(cfg.get(key), str):
            path = Path(cfg[key])
            cfg[key] = str(path.with_name(f'{path.stem}_{name}{path.suffix}'))
    return cfg
