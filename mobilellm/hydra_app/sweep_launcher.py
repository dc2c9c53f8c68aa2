"""The base class of launchers, with the methods that the sweep check and Hydra's sweeper call."""

import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from hydra.core.config_loader import ConfigLoader
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_object
from omegaconf import DictConfig, open_dict

from mobilellm.cli.errors import CommandError
from mobilellm.hydra_app.trial import Trial, as_typed, without_hydra


class SweepLauncher(Launcher):
    """A launcher that runs each trial in its own process; trials write their results to files.

    A new launcher is a subclass and a file in conf/hydra/launcher/ whose `_target_` names it.
    """

    choice: ClassVar[str]
    """Its name after `hydra/launcher=`, for messages."""

    @classmethod
    def prepare(cls, settings: DictConfig) -> None:
        """Check the settings and start to load modules; called before the trials are composed.

        Args:
            settings: the node `hydra.launcher`.
        """

    @classmethod
    def check_trial(cls, config: DictConfig) -> None:
        """Refuse a trial that this launcher cannot run; called with each configuration."""

    @classmethod
    def abandon(cls) -> None:
        """Undo what `prepare` started; called if the sweep is refused."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra's sweeper."""
        self.config_loader: ConfigLoader = hydra_context.config_loader
        self.task_function = task_function
        self.config = config

    @property
    def task(self) -> Callable[[DictConfig], Any]:
        """The function that the process of a trial calls.

        Raises:
            ValueError: another process cannot import the function.
        """
        task = getattr(self.task_function, "task", self.task_function)
        if "." in getattr(task, "__qualname__", "."):
            raise ValueError(
                f"this launcher needs a function that a new process can import, not {task}; "
                "use hydra/launcher=basic for this command"
            )
        return task

    def trials(self, overrides: Sequence[Sequence[str]], first: int) -> list[Trial]:
        """The trials as the sweep check composed them, so that later edits of conf/ have no effect.

        Args:
            overrides: the overrides of each trial, as the sweeper passes them.
            first: number of the first trial within the sweep.
        """
        return [self._trial(first + i, o) for i, o in enumerate(overrides)]

    def _trial(self, number: int, overrides: Sequence[str]) -> Trial:
        find: Callable[[Sequence[str]], Trial | None] | None
        find = getattr(self.task_function, "trial", None)
        trial = find(overrides) if find is not None else None
        if trial is not None:
            return trial
        config = self.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = str(number)
            config.hydra.job.num = number
        return Trial(tuple(overrides), config, None)

    def record_failure(self, trial_name: str, reason: str) -> None:
        """Record a failed trial, so that the command exits with 1 after the other trials."""
        fail: Callable[[str, str], None] | None = getattr(self.task_function, "fail", None)
        if fail is not None:
            fail(trial_name, reason)


def job_return(config: DictConfig, result: Any) -> JobReturn:
    """A trial's result in the form that Hydra expects.

    The status is always "completed", because Hydra ends the whole sweep at the first failed trial.
    `SweepTask` records the failures.
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


def sweep_launcher_of(settings: DictConfig) -> type[SweepLauncher] | None:
    """Register the class of the chosen launcher with Hydra; None for Hydra's own launchers.

    Hydra builds only launchers of the package `hydra_plugins`. Any subclass of `SweepLauncher`
    may be named by `hydra.launcher._target_`.

    Args:
        settings: the node `hydra.launcher`.

    Raises:
        ValueError: `_target_` cannot be imported.
    """
    target = str(settings._target_)
    try:
        launcher = get_object(target)
    except Exception as error:
        raise CommandError(
            f"hydra.launcher._target_={target} cannot be imported ({' '.join(str(error).split())})"
        ) from error
    if not (isinstance(launcher, type) and issubclass(launcher, SweepLauncher)):
        return None
    plugins = Plugins.instance()
    plugins.class_name_to_class[target] = launcher
    plugins.is_in_toplevel_plugins_module = _is_known_to_hydra
    return launcher


def _is_known_to_hydra(clazz: str) -> bool:
    return clazz in Plugins.instance().class_name_to_class
