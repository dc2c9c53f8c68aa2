"""A callback for commands of the tests: the teacher is gone when training ends."""

import shutil

from lightning.pytorch import Callback


class RemoveAtEnd(Callback):
    """Removes a folder after the last step."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, *_):
        shutil.rmtree(self.folder)
