"""Whether the data of a sweep's trials go together, found before the first trial starts."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.data.preparation.prepare import open_prepared
from mobilellm.data.source import SPLITS
from mobilellm.hydra_app.configuration import instantiate
from mobilellm.run_folder import read_summary

if TYPE_CHECKING:
    from mobilellm.data import DataConfig
    from mobilellm.hydra_app.trial import Trial


def check_data_folders(trials: "Sequence[Trial]") -> None:
    """Find what would stop trials when they prepare their data, without reading much of them.

    Finished trials are passed over: they need no data any more.

    Args:
        trials: of a sweep, each checked.

    Raises:
        ValueError: two trials whose data differ and have the same folder; a folder that was
            prepared from other input; a path with nothing in it.
        FileNotFoundError: a path of the data does not exist.
    """
    first: dict[Path, tuple[Trial, DataConfig]] = {}
    for trial in trials:
        if trial.folder and (read_summary(trial.folder) or {}).get("status") == "finished":
            continue
        data: DataConfig = instantiate(trial.config.data)
        folder = data.folder.absolute()
        if folder not in first:
            first[folder] = (trial, data)
            if trial.config.get("init_from") is None:
                # With one, the tokenizer and so the folder are of that model.
                open_prepared(data)
        other_trial, other = first[folder]
        changes = _differences(other, data)
        if changes:
            raise ValueError(
                f"trials '{other_trial.name}' and '{trial.name}' would prepare different data in "
                f"the same folder, {data.folder} ({changes[0]}); start a command for each, with a "
                "data.name of its own"
            )


def _differences(one: "DataConfig", other: "DataConfig") -> list[str]:
    """What differs in what two configurations prepare; files are read only where it is needed."""
    from mobilellm.data.manifest import describe_inputs, differences, read_inputs

    if _sources(one) == _sources(other):
        return []
    known = describe_inputs(one, read_inputs(one.folder))
    return differences(known, describe_inputs(other, known))


def _sources(data: "DataConfig") -> tuple[Any, ...]:
    files = [data.files(split) for split in SPLITS]
    return data.preparation(), files, data.tokenizer, data.tokenizer_sample_megabytes
