"""Benchmark tasks of the lm-evaluation-harness during training, on the first of their documents."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from mobilellm.data.tokenizers import open_tokenizer
from mobilellm.evaluation.harness.evaluate_task import evaluate_task
from mobilellm.evaluation.harness.package import check_installed
from mobilellm.evaluation.harness.tasks import OpenTasks, open_tasks
from mobilellm.evaluation.language_model import LanguageModel
from mobilellm.ranges import Range, checked

COUNT = Range(at_least=1)
MEASURES = ("accuracy", "accuracy_norm", "exact_match", "bits_per_byte", "margin")
"""What is logged of each task."""


class EvaluationCallback(Callback):
    """Logs `val/<task>/<measure>` for each task, at every validation and at the end.

    Measures are accuracy, accuracy_norm, bits per byte of the right answers, and the probability
    margin; see `mobilellm evaluate`, which evaluates all documents and gives intervals. Every rank
    evaluates all documents, because sharded models require it. Nothing is random.

    Args:
        tasks: names of tasks or groups of the harness.
        data: folder with rows of the tasks, `<task>/<split>.jsonl`; null: fetched from the hub.
        limit: the first documents of each task that are used at every validation.
        final_limit: the same at the end of the run; null: all documents.

    Raises:
        ValueError: a number is below 1, no task is given, or lm-eval is not installed.
    """

    measures_only = True

    @checked(limit=COUNT, final_limit=COUNT)
    def __init__(
        self,
        *,
        tasks: Sequence[str],
        data: str | None = None,
        limit: int = 100,
        final_limit: int | None = 100,
    ) -> None:
        """Keep the settings; the tasks are opened later."""
        if not tasks:
            raise ValueError("callbacks.evaluation.tasks is empty; name a task, e.g. arc_easy")
        check_installed()
        self.tasks = tuple(tasks)
        self.data = None if data is None else Path(data)
        self.limit = limit
        self.final_limit = final_limit
        self.results: dict[str, float] = {}
        """Values of the last evaluation by name, `<task>/<measure>`."""
        self._opened: OpenTasks | None = None
        self._tokenizer: Any = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Open the tasks and the tokenizer of the data.

        Raises:
            ValueError: the data have no tokenizer, or a task cannot be opened.
        """
        if self._opened is not None:
            return
        path = trainer.datamodule.prepared.tokenizer_path
        if path is None:
            raise ValueError(
                "callbacks=evaluation needs text, but the data are token ids without a tokenizer; "
                "give data.tokenizer=PATH, or leave out callbacks=evaluation"
            )
        self._tokenizer = open_tokenizer(path)
        self._opened = open_tasks(self.tasks, self.data)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Evaluate if this is the last step or one with a validation."""
        step = pl_module.global_step
        if pl_module.finished or step == pl_module.budget.total_steps:
            self._evaluate(trainer, pl_module, self.final_limit)
        elif pl_module.is_validated(step):
            self._evaluate(trainer, pl_module, self.limit)

    def state_dict(self) -> dict[str, Any]:
        """The last results, for a run that is resumed after its last step."""
        return {"results": dict(self.results)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the last results."""
        self.results = dict(state_dict.get("results", {}))

    def summary(self) -> dict[str, float]:
        """The results for summary.json: `val_<task>_<measure>`; empty if there are none yet."""
        return {f"val_{name.replace('/', '_')}": value for name, value in self.results.items()}

    def _evaluate(self, trainer: Any, pl_module: Any, limit: int | None) -> None:
        start = time.monotonic()
        model = LanguageModel(
            name="the model in training", model=pl_module.model, tokenizer=self._tokenizer,
            adds_bos=trainer.datamodule.prepared.bos_token_id is not None,
        )  # fmt: skip
        tasks = {} if self._opened is None else self._opened.tasks
        with trainer.precision_plugin.forward_context():
            for name, task in tasks.items():
                record = evaluate_task(
                    model, name, task, limit=limit, with_unconditional=False
                ).record()
                for measure in MEASURES:
                    if measure in record:
                        self.results[f"{name}/{measure}"] = record[measure]
        pl_module.validation_seconds += time.monotonic() - start
        pl_module.write_metrics({f"val/{name}": value for name, value in self.results.items()})
