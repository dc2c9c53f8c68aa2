"""What our launchers have in common: the trials as they were checked, and how to tell Hydra."""

import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import open_dict

from mobilellm.hydra_app.sweep_check import Trial, as_typed, without_hydra

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class SweepLauncher(Launcher):
    """A launcher whose trials are processes, and whose results are the files that they write."""

    def setup(
        self, *, hydra_context: "HydraContext", task_function: "TaskFunction", config: "DictConfig"
    ) -> None:
        """Called by Hydra's sweeper."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    @property
    def task(self) -> "Callable[[DictConfig], Any]":
        """What a trial's process calls.

        Raises:
            ValueError: another process cannot import it.
        """
        task = getattr(self.task_function, "task", self.task_function)
        if "." in getattr(task, "__qualname__", "."):
            raise ValueError(
                f"this launcher needs a function that a new process can import, not {task}; "
                "use hydra/launcher=basic for this command"
            )
        return task

    def trials(self, overrides: Sequence[Sequence[str]], first: int) -> list[Trial]:
        """As composed when the sweep was checked, so that later edits change nothing."""
        return [self._trial(first + i, o) for i, o in enumerate(overrides)]

    def _trial(self, number: int, overrides: Sequence[str]) -> Trial:
        find: Callable[[Sequence[str]], Trial | None] | None
        find = getattr(self.task_function, "trial", None)
        trial = find(overrides) if find is not None else None
        if trial is not None:
            return trial
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = str(number)
            config.hydra.job.num = number
        return Trial(tuple(overrides), config, None)

    def remember_failure(self, trial_name: str, reason: str) -> None:
        """Let the command end with 1, after the others."""
        fail: Callable[[str, str], None] | None = getattr(self.task_function, "fail", None)
        if fail is not None:
            fail(trial_name, reason)


def job_return(config: "DictConfig", result: Any) -> JobReturn:
    """A trial's result as Hydra wants it.

    Always "completed": Hydra would end the whole sweep at the first failed one, and `SweepTask`
    remembers the failures.
    """
    done = JobReturn(
        overrides=as_typed(config.hydra.overrides.task),
        cfg=without_hydra(config),
        hydra_cfg=config,
        working_dir=os.getcwd(),
        status=JobStatus.COMPLETED,
    )
    done.return_value = result
    return done


def register(launcher: type[Launcher], module: ModuleType) -> None:
    """Make a launcher known to Hydra, which accepts launchers from `hydra_plugins` only.

    Args:
        launcher: its `__module__` names a module of that package.
        module: where it is defined.
    """
    plugins = Plugins.instance()
    try:
        import hydra_plugins  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
    sys.modules[launcher.__module__] = module
    plugins.register(launcher)
