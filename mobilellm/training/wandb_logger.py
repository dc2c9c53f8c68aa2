"""Weights & Biases: one W&B run per run folder, which a resumed run continues."""

import logging
import os
import secrets
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from mobilellm.files import write_text_atomically
from mobilellm.ranges import checked

logger = logging.getLogger(__name__)

ID_FILE = "wandb_id.txt"
REMEDY = "use logger.wandb.offline=true and send the run later with `wandb sync`"


class WandbLogger(Logger):
    """Writes metrics to a W&B run whose id is kept in the run's folder.

    A requeued or resumed run reads it there. The id is random, so that the same experiment of
    another user has a different id.

    The W&B run starts with the first value and ends with `close`, which must be called in a
    `finally` block: otherwise the next trial in the same process would write to this run.

    Args:
        folder: folder of the run. Its name is the name of the W&B run, its config.yaml is the
            configuration, and `wandb` in it gets the files.
        project: W&B project.
        offline: only write files, which `wandb sync` uploads later.
        group: W&B group, to which related runs belong.
        tags: W&B tags.
    """

    @checked()
    def __init__(
        self,
        folder: str | Path,
        *,
        project: str = "mobilellm",
        offline: bool = True,
        group: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        """Keep the settings; nothing is started before the first value."""
        super().__init__()
        self.folder = Path(folder).absolute()
        self.options = {
            "project": project,
            "mode": "offline" if offline else "online",
            "group": group,
            "tags": list(tags),
        }
        self._run: Any = None

    @staticmethod
    def check(*, offline: bool = True, **_: Any) -> None:
        """Check the settings, before any data is read.

        Raises:
            ValueError: the run is online, and there is no W&B API key.
        """
        if offline:
            return
        import wandb

        try:
            wandb.login(verify=False)
        except wandb.Error as error:
            raise ValueError(
                f"logger.wandb.offline=false needs a W&B API key ({_one_line(error)}); run `wandb "
                f"login`, set WANDB_API_KEY, or {REMEDY}"
            ) from error

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.folder.name

    @property
    def version(self) -> str | None:
        """W&B's id of the run; None before the first value."""
        path = self.folder / ID_FILE
        return path.read_text(encoding="utf-8").strip() if path.exists() else None

    @property
    def run(self) -> Any:
        """The W&B run, which the first access starts.

        Raises:
            ValueError: W&B cannot be reached, or refuses the run.
        """
        if self._run is None:
            import wandb

            self.folder.mkdir(parents=True, exist_ok=True)
            run_id = self.version
            if run_id is None:
                run_id = secrets.token_hex(6)
                write_text_atomically(self.folder / ID_FILE, f"{run_id}\n")
            try:
                self._run = wandb.init(
                    dir=str(self.folder),
                    id=run_id,
                    name=self.name,
                    config=self._config(),
                    resume="allow",
                    reinit="create_new",
                    settings=wandb.Settings(silent=True, console="off"),
                    **self.options,
                )
            except (wandb.Error, ValueError) as error:
                raise ValueError(
                    f"logger=wandb could not start its run ({_one_line(error)}); {REMEDY}"
                ) from error
            self._run.define_metric("*", step_metric="step")
        return self._run

    def _config(self) -> dict[str, Any]:
        path = self.folder / "config.yaml"
        return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: `wandb.init` has the configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Send the values of one step."""
        self.run.log({"step": step, **metrics})

    @rank_zero_only
    def close(self, exit_code: int = 0) -> None:
        """End the W&B run, so that another trial in this process starts its own."""
        if self._run is not None:
            self._run.finish(exit_code=exit_code)
            self._run = None
            if self.options["mode"] == "offline":
                # A resumed run has several folders with the same id; `wandb sync` merges them.
                path = os.path.relpath(self.folder / "wandb")
                logger.info(
                    "W&B: offline; to upload the run: wandb sync %s/offline-run-*",
                    shlex.quote(path),
                )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
