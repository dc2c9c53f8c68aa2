"""Accuracy of the student on validation questions, from the label prompt alone."""

import time
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback

from mobilellm.data.prepared_prompts import PreparedPrompts, Question
from mobilellm.evaluation.answer_accuracy import Accuracy, answer_accuracy
from mobilellm.ranges import Range, checked

COUNT = Range(at_least=1)


class LabelAccuracyCallback(Callback):
    """Logs `val/accuracy` with its 95 % interval, the number of questions, and chance accuracy.

    The questions are rows of the validation split, with the label prompt only. Every rank evaluates
    all of them, because sharded models require it. Nothing is random.

    Args:
        max_questions: number of questions at the end, spread evenly over the split; None: all.
        validation_questions: number of questions at each earlier validation; None: none.
        per_token: compare choices by their log-likelihood per token.
        batch_tokens: largest number of tokens per forward pass.

    Raises:
        ValueError: a number is below 1.
    """

    measures_only = True

    @checked(max_questions=COUNT, validation_questions=COUNT, batch_tokens=COUNT)
    def __init__(
        self,
        *,
        max_questions: int | None = None,
        validation_questions: int | None = 200,
        per_token: bool = False,
        batch_tokens: int = 8192,
    ) -> None:
        """Keep the settings; the questions are read later."""
        self.max_questions = max_questions
        self.validation_questions = validation_questions
        self.options = {"per_token": per_token, "batch_tokens": batch_tokens}
        self.accuracy: Accuracy | None = None
        """Result of the last evaluation."""
        self._questions: list[Question] = []
        self._sampled_questions: list[Question] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Read the questions.

        Raises:
            ValueError: the data have no questions, or one is longer than the model's context.
        """
        prepared = trainer.datamodule.prepared
        if not isinstance(prepared, PreparedPrompts):
            raise ValueError(
                "callbacks.label_accuracy needs questions, but the data have none; use "
                "data=rationales, or callbacks.label_accuracy=null"
            )
        self._questions = prepared.questions(self.max_questions)
        if self.validation_questions is not None:
            few = min(self.validation_questions, len(self._questions))
            self._sampled_questions = prepared.questions(few)
        longest = max(
            len(question.prompt) + max(map(len, (question.label, *question.choices)))
            for question in self._questions
        )
        context = pl_module.model.config.max_position_embeddings
        if longest - 1 > context:
            raise ValueError(
                f"a question with its answer has {longest} tokens, but the model's context allows "
                f"max_position_embeddings + 1 = {context + 1}; use a model with a longer context, "
                "or remove the row"
            )

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Evaluate if this is the last step or one with a validation."""
        step = pl_module.global_step
        if pl_module.finished or step == pl_module.budget.total_steps:
            self._evaluate(trainer, pl_module, self._questions)
        elif self._sampled_questions and pl_module.is_validated(step):
            self._evaluate(trainer, pl_module, self._sampled_questions)

    def state_dict(self) -> dict[str, Any]:
        """The last result, for a run that is resumed after its last step."""
        known = self.accuracy
        return {} if known is None else {"accuracy": [known.correct, known.count, known.chance]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the last result."""
        if "accuracy" in state_dict:
            self.accuracy = Accuracy(*state_dict["accuracy"])

    def summary(self) -> dict[str, float]:
        """The results for summary.json; empty before the first evaluation."""
        return {name.replace("/", "_"): value for name, value in self._metrics().items()}

    def _evaluate(self, trainer: Any, pl_module: Any, questions: Sequence[Question]) -> None:
        start = time.monotonic()
        with trainer.precision_plugin.forward_context():
            self.accuracy = answer_accuracy(
                pl_module.model, questions, device=pl_module.device, **self.options
            )
        pl_module.validation_seconds += time.monotonic() - start
        pl_module.write_metrics(self._metrics())

    def _metrics(self) -> dict[str, float]:
        if self.accuracy is None:
            return {}
        low, high = self.accuracy.interval
        return {
            "val/accuracy": self.accuracy.share,
            "val/accuracy_low": low,
            "val/accuracy_high": high,
            "val/accuracy_chance": self.accuracy.chance,
            "val/questions": self.accuracy.count,
        }
