"""A run that a callback ended before its budget, as Lightning's EarlyStopping and Timer do."""

import logging
from typing import Any

logger = logging.getLogger(__name__)


def is_ended_early(trainer: Any, module: Any) -> bool:
    """Whether a callback, and neither the budget nor a signal, ended the run."""
    return trainer.should_stop and not module.finished


def end_early(trainer: Any, module: Any, *, is_last: bool) -> dict[str, Any]:
    """Validate where the last step was not, and say what ended the run; on all ranks.

    The run is finished: what asked for its end was asked for by the user. Its summary has the
    tokens that it was trained on, fewer than its budget.

    Args:
        trainer: after its fit.
        module: what it trained.
        is_last: whether no stage of compression is left; else the run counts as stopped.

    Returns:
        For the summary: `ended_early` with `by`, `reason`, `step` and `share_of_budget`.
    """
    if module.validation_step != trainer.global_step:
        module.validate()
    by, reason = _cause(trainer)
    progress = module.budget.progress(trainer.global_step, module.elapsed_seconds)
    module.finished = is_last
    if trainer.is_global_zero:
        logger.warning(
            "%s ended the run after %.0f %% of its budget, at step %d%s",
            by, 100 * progress, trainer.global_step, f": {reason}" if reason else "",
        )  # fmt: skip
    return {
        "ended_early": {
            "by": by, "reason": reason, "step": trainer.global_step, "share_of_budget": progress,
        }
    }  # fmt: skip


def _cause(trainer: Any) -> tuple[str, str | None]:
    """The callback that asked for the end, and why; as far as it can be told."""
    for callback in trainer.callbacks:
        reason = getattr(callback, "stopping_reason_message", None)
        if reason:
            return type(callback).__name__, " ".join(reason.split())
    return "a callback", None
