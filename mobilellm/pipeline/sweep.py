"""Checks that run before the first trial of a sweep starts: each trial, and the data of all."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from mobilellm.data import open_prepared
from mobilellm.data.manifest import read_inputs
from mobilellm.data.preparation.inputs import describe_inputs, differences
from mobilellm.data.resolved import ResolvedData, resolve_data
from mobilellm.data.source import SPLITS
from mobilellm.hydra_app.configuration import instantiate
from mobilellm.hydra_app.trial import Trial
from mobilellm.pipeline.horizons import HORIZONS, horizon_runs
from mobilellm.pipeline.hydra_job import hydra_job
from mobilellm.pipeline.plan import plan_run
from mobilellm.run_folder import check_may_start, is_finished, read_summary


def check_run(cfg: DictConfig) -> Path:
    """Check one trial and return its run folder; with `horizons`, that of the full budget.

    Raises:
        ValueError, TypeError, FileNotFoundError: see `plan_run`; or the run folder is in use.
    """
    plan = partial(plan_run, on_this_machine=hydra_job().launcher != "slurm")
    if cfg.get(HORIZONS):
        _, runs = horizon_runs(cfg, plan)
        folders = [run.folder for run in runs]
        resume = hydra_job().is_sweep if cfg.resume is None else cfg.resume
    else:
        run = plan(cfg)
        folders, resume = [run.folder], run.resume
    for folder in folders:
        if not is_finished(folder):
            check_may_start(folder, resume=resume)
    return folders[-1]


def check_data_folders(trials: Sequence[Trial]) -> None:
    """Check that every trial can prepare its data, without reading most of the data.

    Finished trials are skipped, because they need no data.

    Args:
        trials: the trials of a sweep, each of which has been checked.

    Raises:
        ValueError: two trials would prepare different data in the same folder, a folder was
            prepared from other input, or a path of the data is empty.
        FileNotFoundError: a path of the data does not exist.
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
                # With init_from, the tokenizer and therefore the folder are those of the model.
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
    """Differences between the data of two configurations; files are read only if necessary."""
    if _sources(one) == _sources(other):
        return []
    known = describe_inputs(one, read_inputs(one.folder))
    return differences(known, describe_inputs(other, known))


def _sources(data: ResolvedData) -> tuple[object, ...]:
    config = data.config
    files = [config.files(split) for split in SPLITS]
    return data.options(), files, config.tokenizer, config.tokenizer_sample_megabytes
