"""Opens tasks of the harness, with rows from local files or from the hub."""

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilellm.data.sources.hub_access import offline_without_network
from mobilellm.evaluation.harness.local_rows import local_overrides
from mobilellm.evaluation.harness.package import check_installed
from mobilellm.evaluation.harness.task_names import GROUP, Selection, select_tasks

USUAL_FOLDERS = (
    "arc", "hellaswag", "piqa", "siqa", "openbookqa", "winogrande", "super_glue/boolq", "lambada",
    "race", "triviaqa", "blimp", "wikitext",
)  # fmt: skip
"""Folders of the harness that are searched first: reading all of its 15,000 files takes seconds."""

FEWSHOT_SEED = 1234
"""The harness's own default, so that the same examples are drawn."""


@dataclass(frozen=True)
class OpenTasks:
    """Tasks with their rows."""

    tasks: Mapping[str, Any]
    """`ConfigurableTask` objects of the harness by name."""
    selection: Selection
    data: Mapping[str, str]
    """Where the rows of each task are from."""


def open_tasks(names: Sequence[str], data: Path | None = None, num_fewshot: int = 0) -> OpenTasks:
    """Find tasks and read their rows, before any model is loaded.

    Args:
        names: see `select_tasks`.
        data: folder with rows of the tasks, see `local_rows`; tasks that it does not have are
            fetched from the hub.
        num_fewshot: number of solved examples before each question. Tasks that fix their own number
            keep it.

    Raises:
        FileNotFoundError: `data` is not a folder.
        ValueError: lm-eval is not installed, a name is unknown, a row file is wrong, a task has
            fewer rows than examples are asked for, or neither local rows nor rows on the hub that
            can be reached.
    """
    check_installed()
    if data is not None and not data.is_dir():
        raise FileNotFoundError(
            f"--data {data} is not a folder; give one that contains <task>/<split>.jsonl"
        )
    _silence()
    manager = _manager(names)
    selection = select_tasks(names, manager.task_index)
    tasks, origins = {}, {}
    for name in selection.tasks:
        config = manager.task_index[name].cfg or {}
        local = None if data is None else local_overrides(
            data, name, config, num_fewshot=num_fewshot
        )  # fmt: skip
        origins[name] = str(config.get("dataset_path")) if local is None else f"{data}/{name}"
        tasks[name] = _open(manager, name, local, data)
        _set_fewshot(tasks[name], num_fewshot)
        _check_fewshot(tasks[name], name)
        _remember_documents(tasks[name])
    return OpenTasks(tasks, selection, origins)


def usual_folders() -> list[str | Path]:
    """Paths of `USUAL_FOLDERS`."""
    import lm_eval.tasks  # an optional dependency

    return [Path(lm_eval.tasks.__file__).parent / name for name in USUAL_FOLDERS]


def _manager(names: Sequence[str]) -> Any:
    """A task manager that knows all names: of the usual folders if possible, else of all."""
    import lm_eval.tasks  # an optional dependency

    usual = lm_eval.tasks.TaskManager(include_defaults=False, include_path=usual_folders())
    known = {name for name, entry in usual.task_index.items() if entry.kind.name != "TAG"}
    if all(name == GROUP or name in known for name in names):
        return usual
    return lm_eval.tasks.TaskManager()


def _open(manager: Any, name: str, local: Mapping[str, Any] | None, data: Path | None) -> Any:
    # A group is the harness's own way to change settings of a task that it has.
    spec = {"group": f"{name} of {GROUP}", "task": [{"task": name, **(local or {})}]}
    # Some tasks print when they are loaded; stdout is for the results.
    with offline_without_network() as reason, redirect_stdout(sys.stderr):
        try:
            (task,) = manager.load([spec])["tasks"].values()
        except KeyError as error:
            if local is None:
                raise
            raise ValueError(
                f"the rows of {data}/{name} do not have the field {error}; use the columns of the "
                "public data set that the harness reads"
            ) from error
        except Exception as error:
            if local is not None:
                raise
            raise ValueError(_unreachable(name, data, reason or str(error))) from error
    return task


def _unreachable(name: str, data: Path | None, reason: str) -> str:
    given = "give its folder" if data is None else f"{data} has no folder {name}; add it"
    return (
        f"the rows of {name} are not on this machine and cannot be fetched "
        f"({' '.join(reason.split())[:200]}); {given}: --data DIR (or callbacks.evaluation.data) "
        f"with DIR/{name}/<split>.jsonl, or connect to the network"
    )


def _set_fewshot(task: Any, num_fewshot: int) -> None:
    """Set the number of examples as the harness does: a task that fixes 0 keeps it."""
    own = task.get_config("num_fewshot")
    if own is None or (num_fewshot and own != 0):
        task.set_config(key="num_fewshot", value=num_fewshot)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)


def _check_fewshot(task: Any, name: str) -> None:
    """Check that a task has enough rows for its solved examples.

    Raises:
        ValueError: it has fewer.
    """
    number = task.get_config("num_fewshot") or 0
    if not number:
        return
    # One more is drawn where the question itself may be among them; the first rows are taken as
    # they are.
    takes_first = task.fewshot_cfg.sampler == "first_n"
    rows = len(list(task.fewshot_docs()))
    most = rows if takes_first else rows - 1
    if number > most:
        raise ValueError(
            f"--num-fewshot {number} must be at most {max(0, most)} for {name}, whose split of "
            f"examples has {rows} rows; use fewer, or more rows"
        )


def _remember_documents(task: Any) -> None:
    """Let a task process its rows once, and not whenever its documents are asked for."""
    process = task.get_config("process_docs")
    if process is None:
        return
    # With the rows themselves: the id of rows that no longer exist could be given to others.
    known: dict[int, tuple[Any, Any]] = {}

    def remembered(rows: Any) -> Any:
        if id(rows) not in known:
            known[id(rows)] = rows, process(rows)
        return known[id(rows)][1]

    task.set_config(key="process_docs", value=remembered)


def _silence() -> None:
    """Let the harness and `datasets` report problems only."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from datasets import disable_progress_bars  # slow to import

    disable_progress_bars()
