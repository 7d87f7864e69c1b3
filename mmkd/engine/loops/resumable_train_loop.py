from mmengine.runner import EpochBasedTrainLoop

from mmkd.registry import LOOPS
from mmkd.utils.errors import ConfigError


@LOOPS.register_module()
class ResumableTrainLoop(EpochBasedTrainLoop):
    """Epoch-based training that also goes on from a checkpoint in the middle of an epoch.

    The batches that the interrupted run has had are drawn again and dropped; then the random states of the checkpoint are
    restored (`MemberHook`), so that what follows equals the unbroken run. Resumed at the end of an epoch, the validation due then
    is done (again): a kill may have come before it. Arguments as mmengine's `EpochBasedTrainLoop`.

    Raises:
        ConfigError: If the training data give no batch at all, and if the checkpoint's iteration lies outside its epoch: it
            comes from another batch size or data set.
    """

    def __init__(self, runner, dataloader, max_epochs, **kwargs):
        super().__init__(runner, dataloader, max_epochs, **kwargs)
        if not len(self.dataloader):
            raise ConfigError(
                f'train_dataloader: {len(self.dataloader.dataset)} images give no batch of batch_size='
                f'{self.dataloader.batch_size}'
                + (' with drop_last=True' if self.dataloader.drop_last else '')
            )

    def run(self):
        """Train to the end."""
        self.runner.call_hook('before_train')
        if self._epoch and self._iter == self._epoch * len(self.dataloader):
            self._validate()  # the run that is resumed may have been killed before its results were safe
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate()
        self.runner.call_hook('after_train')
        return self.runner.model

    def _validate(self):
        """Validate if it is due after the epochs that are done."""
        self._decide_current_val_interval()
        due = self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
        if self.runner.val_loop is not None and self._epoch >= self.val_begin and due:
            self.runner.val_loop.run()

    def run_epoch(self):
        """Train one epoch, from the iteration that is due."""
        length = len(self.dataloader)
        skip = self._iter - self._epoch * length
        if not 0 <= skip <= length:
            raise ConfigError(
                f'cannot resume: iteration {self._iter} is none of epoch {self._epoch + 1} with {length} iterations '
                'an epoch; batch size, number of processes and data must be those of the checkpoint'
            )
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        batches = iter(self.dataloader)
        for _ in range(skip):
            next(batches)
        if skip:
            self.runner.logger.info(
                f'Went past {skip} of the {length} batches of epoch {self._epoch + 1}'
            )
            self.runner.call_hook('after_skipped_batches')
        for idx in range(skip, length):
            self.run_iter(idx, next(batches))
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
