"""Checks of a sweep before its first trial starts: each trial, and the data of all of them."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from mobilellm.data import open_prepared
from mobilellm.data.manifest import read_inputs
from mobilellm.data.preparation.inputs import describe_inputs, differences
from mobilellm.data.resolved import ResolvedData, resolve_data
from mobilellm.data.source import SPLITS
from mobilellm.hydra_app.configuration import instantiate
from mobilellm.hydra_app.trial import Trial
from mobilellm.pipeline.hydra_job import hydra_job
from mobilellm.pipeline.plan import plan_run
from mobilellm.run_folder import check_may_start, read_summary


def check_run(cfg: DictConfig) -> Path:
    """Check one trial; returns its run folder.

    Raises:
        ValueError, TypeError, FileNotFoundError: as `plan_run`, or the folder may not be used.
    """
    run = plan_run(cfg, here=hydra_job().launcher != "slurm")
    if not run.is_finished():
        check_may_start(run.folder, resume=run.resume)
    return run.folder


def check_data_folders(trials: Sequence[Trial]) -> None:
    """Find what would stop trials when they prepare their data, without reading much of the data.

    Finished trials are left out: they need no data any more.

    Args:
        trials: of a sweep, each checked.

    Raises:
        ValueError: two trials whose data differ and have the same folder; a folder that was
            prepared from different inputs; a path with nothing in it.
        FileNotFoundError: a path of the data that does not exist.
    """
    first: dict[Path, tuple[Trial, ResolvedData]] = {}
    for trial in trials:
        if trial.folder and (read_summary(trial.folder) or {}).get("status") == "finished":
            continue
        resolved = resolve_data(instantiate(trial.config.data))
        folder = resolved.folder.absolute()
        if folder not in first:
            first[folder] = (trial, resolved)
            if trial.config.get("init_from") is None:
                # With init_from the tokenizer, and so the folder, is that of the given model.
                open_prepared(resolved.config)
        other_trial, other = first[folder]
        changes = _differences(other, resolved)
        if changes:
            raise ValueError(
                f"trials '{other_trial.name}' and '{trial.name}' would prepare different data in "
                f"the same folder, {resolved.folder} ({changes[0]}); start a command for "
                "each, with a data.name of its own"
            )


def _differences(one: ResolvedData, other: ResolvedData) -> list[str]:
    """Differences in what two configurations prepare; files are read only if they decide it."""
    if _sources(one) == _sources(other):
        return []
    known = describe_inputs(one, read_inputs(one.folder))
    return differences(known, describe_inputs(other, known))


def _sources(data: ResolvedData) -> tuple[object, ...]:
    config = data.config
    files = [config.files(split) for split in SPLITS]
    return data.options(), files, config.tokenizer, config.tokenizer_sample_megabytes
