"""The task that Hydra calls for each trial; an error in one trial does not end the sweep."""

import functools
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mobilellm.cli.messages import print_message
from mobilellm.hydra_app.errors import describe_configuration_error
from mobilellm.hydra_app.trial import Trial, as_typed


class SweepTask:
    """Wraps a task so that a sweep continues if a trial fails; errors are printed and recorded.

    Outside a sweep, it behaves like the task itself.
    """

    def __init__(self, task: Callable[[DictConfig], Any]) -> None:
        """Wrap `task`."""
        functools.update_wrapper(self, task)
        self.task = task
        self.trials: list[Trial] = []
        self.failures: list[tuple[str, str]] = []
        """Overrides and error message of each trial that failed."""
        self.error: Exception | None = None
        """The error that the task raised outside a sweep."""

    def __call__(self, config: DictConfig) -> Any:
        """Run one trial in this process."""
        job = HydraConfig.get()
        if job.mode != RunMode.MULTIRUN:
            try:
                return self.task(config)
            except Exception as error:
                # Raised again by `HydraApplication.run`; Hydra would print an additional line.
                self.error = error
                return None
        trial = self.trial(as_typed(job.overrides.task))
        if trial is not None:
            # The checked configuration also contains the typed overrides and the varying keys.
            HydraConfig.instance().set_config(trial.config)
        name = trial.name if trial else " ".join(as_typed(job.overrides.task))
        total = f" of {len(self.trials)}" if self.trials else ""
        print_message(f"trial {job.job.num + 1}{total}: {name}")
        try:
            return self.task(config)
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):
                # A library has converted Ctrl-C to an exit code; it must still end the sweep.
                raise stop.__context__ from None
            if stop.code in (None, 0):
                return None
            message = f"exited with {stop.code}"
        except Exception as error:
            message = describe_configuration_error(error)
            if message is None:
                traceback.print_exc()
                message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        self.fail(name, message)
        print_message(f"failed: {name}: {message}")
        return None

    def fail(self, name: str, message: str) -> None:
        """Record that the trial with these overrides failed."""
        self.failures.append((name, message))

    def trial(self, overrides: Sequence[str]) -> Trial | None:
        """The checked trial with these overrides; None if there is none."""
        return next((t for t in self.trials if t.overrides == tuple(overrides)), None)
