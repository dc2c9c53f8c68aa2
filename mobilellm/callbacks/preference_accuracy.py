"""How often the trained model prefers the better answer of a pair, more than its reference does."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor

from mobilellm.callbacks.distillation import DistillationCallback
from mobilellm.distillation.teachers.teacher import Teacher
from mobilellm.evaluation.intervals import wilson_interval
from mobilellm.evaluation.validation import EvaluationMode
from mobilellm.labels import ANSWER_LABELS
from mobilellm.losses.answers import pair_mask, pair_sums, reference_sums
from mobilellm.losses.cross_entropy import token_losses
from mobilellm.models.attention_mask import attention_mask_of
from mobilellm.training.ranks import sum_over_ranks


class PreferenceAccuracyCallback(Callback):
    """Logs what a model has learned from preferences, at each validation.

    - `val/preference_accuracy`: the share of the validation pairs of which the probability of the
      better answer, relative to the reference, has grown more than that of the worse one (the
      accuracy of the implicit reward), with its 95 % interval;
    - `val/preference_margin`: the mean of that difference of logarithms, in nats;
    - `val/preference_likelihood`: the share of the pairs of which the better answer is the more
      likely one, whatever the reference says;
    - `val/pairs`: the number of pairs.

    The reference is the teacher of `distillation=dpo`.

    Source: Rafailov et al. 2023, arXiv:2305.18290, section 4, the implicit reward.
    """

    measures_only = True

    def __init__(self) -> None:
        """Nothing is measured yet."""
        self.metrics: dict[str, float] = {}
        """The last result, by the names in the log."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Check that a loss compares pairs of answers.

        Raises:
            ValueError: no callback compares pairs of answers.
        """
        _comparison(trainer.callbacks)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Measure if this is a step with a validation."""
        if pl_module.is_validated(pl_module.global_step):
            self._measure(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The last result, for a run that is resumed after its last step."""
        return {"metrics": self.metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the last result."""
        self.metrics = dict(state_dict["metrics"])

    def summary(self) -> dict[str, float]:
        """The results for summary.json; empty before the first validation."""
        return {name.replace("/", "_"): value for name, value in self.metrics.items()}

    def _measure(self, trainer: Any, pl_module: Any) -> None:
        start = time.monotonic()
        teacher, model = _comparison(trainer.callbacks).teacher, pl_module.model
        assert teacher is not None  # noqa: S101 - it is loaded before the first step
        sums = torch.zeros(4, dtype=torch.float64)
        with (
            torch.no_grad(), EvaluationMode(model), trainer.precision_plugin.forward_context(),
        ):  # fmt: skip
            for batch in trainer.datamodule.validation_batches():
                on_device = {name: value.to(pl_module.device) for name, value in batch.items()}
                sums += _compare(model, teacher, on_device)
        self.metrics = _as_metrics(sum_over_ranks(sums, pl_module.device))
        pl_module.validation_seconds += time.monotonic() - start
        pl_module.write_metrics(self.metrics)


def _comparison(callbacks: list[Callback]) -> DistillationCallback:
    """The callback whose loss compares pairs of answers with a reference."""
    for callback in callbacks:
        if isinstance(callback, DistillationCallback) and callback.compares_pairs:
            return callback
    raise ValueError(
        "callbacks.preference_accuracy needs a loss on pairs of answers and its reference; use "
        "data=preferences distillation=dpo, or callbacks.preference_accuracy=null"
    )


def _compare(model: Any, teacher: Teacher, batch: dict[str, Tensor]) -> Tensor:
    """Number of pairs, of those that are preferred, of likelier answers, and sum of the margins."""
    output = model(batch["input_ids"], attention_mask=attention_mask_of(batch), logits=False)
    own = pair_sums(-token_losses(output.hidden, model.unembed, batch[ANSWER_LABELS]), batch)
    logits = teacher.run(batch).logits
    assert logits is not None  # noqa: S101 - the loss refuses a teacher without them
    gained = own - reference_sums(logits, batch)
    margin, is_pair = gained[..., 0] - gained[..., 1], pair_mask(batch)
    found = [
        is_pair,
        (margin > 0) & is_pair,
        (own[..., 0] > own[..., 1]) & is_pair,
        margin.masked_fill(~is_pair, 0.0),
    ]
    return torch.stack([value.double().sum() for value in found]).cpu()


def _as_metrics(sums: Tensor) -> dict[str, float]:
    pairs, preferred, likelier, margin = sums.tolist()
    if not pairs:
        return {}
    low, high = wilson_interval(int(preferred), int(pairs))
    return {
        "val/preference_accuracy": preferred / pairs,
        "val/preference_accuracy_low": low,
        "val/preference_accuracy_high": high,
        "val/preference_margin": margin / pairs,
        "val/preference_likelihood": likelier / pairs,
        "val/pairs": pairs,
    }
