"""Validation of the model that a LanguageModelModule trains."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from mobilellm.evaluation.validation import ValidationResult, sum_losses


def measure_validation(module: Any, reduce: Callable[[Tensor], Tensor]) -> ValidationResult:
    """Loss over the validation split, in the precision of training.

    Args:
        module: a LanguageModelModule with a trainer and its data module.
        reduce: sums a tensor over the ranks.
    """
    data = module.trainer.datamodule
    with module.trainer.precision_plugin.forward_context():
        return sum_losses(
            module.model,
            data.validation_batches(),
            token_bytes=data.token_bytes,
            device=module.device,
            reduce=reduce,
        )


def validation_metrics(result: ValidationResult) -> dict[str, float]:
    """`val/loss` in nats per token, and `val/bits_per_byte` if the tokenizer is known."""
    metrics = {"val/loss": result.loss}
    if result.bits_per_byte is not None:
        metrics["val/bits_per_byte"] = result.bits_per_byte
    return metrics
