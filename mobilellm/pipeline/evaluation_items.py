"""The tasks of an evaluation, of the harness and on conversations, with the same methods."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mobilellm.evaluation.harness.evaluate_task import evaluate_task, num_requests, task_settings
from mobilellm.evaluation.harness.results import TaskResult
from mobilellm.evaluation.harness.tasks import OpenTasks
from mobilellm.evaluation.language_model import Advance, LanguageModel
from mobilellm.pipeline.conversation_tasks import OpenConversationTask
from mobilellm.pipeline.evaluation_settings import EvaluationSettings


@dataclass(frozen=True)
class HarnessItem:
    """A task of the harness, with the methods of `OpenConversationTask`."""

    name: str
    task: Any
    limit: int | None

    @property
    def num_requests(self) -> int:
        """About the number of requests, for a progress bar."""
        return num_requests(self.task, self.limit)

    def settings(self, model: LanguageModel) -> dict[str, Any]:
        """What the results depend on, apart from the weights."""
        return task_settings(model, self.task, self.limit)

    def evaluate(self, model: LanguageModel, advance: Advance) -> TaskResult:
        """Run the task; see `evaluate_task`."""
        return evaluate_task(model, self.name, self.task, limit=self.limit, advance=advance)


def evaluation_items(
    opened: OpenTasks, talks: Mapping[str, OpenConversationTask], settings: EvaluationSettings
) -> dict[str, HarnessItem | OpenConversationTask]:
    """All that is evaluated except texts, by the name of its results."""
    harness = {
        task_key(name, settings): HarnessItem(name, task, settings.limit)
        for name, task in opened.tasks.items()
    }
    return {**harness, **talks}


def task_key(name: str, settings: EvaluationSettings) -> str:
    """Name of a task's results, which tells ways of evaluating it apart."""
    shots = f":{settings.num_fewshot}-shot" if settings.num_fewshot else ""
    return f"{name}{shots}{':chat' if settings.chat else ''}"
