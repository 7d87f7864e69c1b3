from mmengine.runner import IterBasedTrainLoop, Runner


def position_of(runner: Runner) -> tuple[str, int]:
    """Return what a training counts, `epoch` or `iteration`, and how many are done."""
    if isinstance(runner._train_loop, IterBasedTrainLoop):
        return 'iteration', runner.iter
    return 'epoch', runner.epoch
