"""TensorBoard event files."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class TensorBoardLogger(Logger):
    """Writes scalars to `<folder>/tensorboard`; steps that a resumed run repeats are replaced.

    Args:
        folder: the run's folder.

    Raises:
        ValueError: the package tensorboard is missing.
    """

    @staticmethod
    def check(**_: Any) -> None:
        """Check that the package is installed, before any data is read.

        Raises:
            ValueError: the package is missing.
        """
        if importlib.util.find_spec("tensorboard") is None:
            raise ValueError(
                "logger=tensorboard needs the package tensorboard, which is not installed; "
                "pip install 'mobilellm[tensorboard]', or use logger=csv"
            )

    def __init__(self, folder: str | Path) -> None:
        """Keep the folder; nothing is written before the first value."""
        super().__init__()
        self.check()
        self.folder = Path(folder) / "tensorboard"
        self._writer: Any = None

    @property
    def name(self) -> str:
        """Name of the logger."""
        return self.folder.parent.name

    @property
    def version(self) -> str:
        """Empty: there is one folder, which a resumed run continues."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: config.yaml contains the settings."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write the values of one step."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder), purge_step=step)
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, step)

    @rank_zero_only
    def save(self) -> None:
        """Flush to disk."""
        if self._writer is not None:
            self._writer.flush()

    @rank_zero_only
    def close(self, exit_code: int = 0) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
