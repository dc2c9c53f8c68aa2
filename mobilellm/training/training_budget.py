"""The budget of a run: tokens, optimizer steps or seconds, whichever is used up first."""

from dataclasses import dataclass

from mobilellm.ranges import MAX_BUDGET, Range, check_fields


@dataclass(frozen=True, kw_only=True)
class TrainingBudget:
    """Limits at which a run ends; if there are several, the first one that is reached counts.

    Raises:
        ValueError: there is no limit, a limit is not above 0, or `max_tokens` is less than one
            step or above `MAX_BUDGET`.
    """

    tokens_per_step: int
    """Tokens per optimizer step, over all devices and micro-batches."""
    max_tokens: float | None = None
    """Training tokens, rounded down to whole steps."""
    max_steps: int | None = None
    """Optimizer steps."""
    max_seconds: float | None = None
    """Wall time in seconds, including validation and the time before a resume."""

    def __post_init__(self) -> None:
        """Check the limits."""
        limit = Range(above=0, remedy="null sets no limit")
        tokens = Range(above=0, cap=MAX_BUDGET, remedy="null sets no limit")
        count = Range(at_least=1, remedy="null sets no limit")
        check_fields(
            self, tokens_per_step=count, max_tokens=tokens, max_steps=count, max_seconds=limit
        )
        limits = {name: getattr(self, name) for name in ("max_tokens", "max_steps", "max_seconds")}
        if all(limit is None for limit in limits.values()):
            raise ValueError("a run needs an end; give max_tokens, max_steps or max_seconds")
        if self.max_tokens is not None and self.max_tokens < self.tokens_per_step:
            raise ValueError(
                f"max_tokens={self.max_tokens:,.0f} must be at least one step, "
                f"tokens_per_step={self.tokens_per_step:,}; give more tokens or smaller steps"
            )

    @property
    def total_steps(self) -> int | None:
        """Number of optimizer steps of the run; None if only the time is limited."""
        in_tokens = None
        if self.max_tokens is not None:
            in_tokens = int(self.max_tokens // self.tokens_per_step)
        limits = [limit for limit in (self.max_steps, in_tokens) if limit is not None]
        return min(limits, default=None)

    def progress(self, steps: int, seconds: float = 0.0) -> float:
        """Share of the budget used after `steps` optimizer steps and `seconds`, at most 1."""
        total = self.total_steps
        by_steps = 0.0 if total is None else steps / total
        by_time = 0.0 if self.max_seconds is None else seconds / self.max_seconds
        return min(1.0, max(by_steps, by_time))

    def is_spent(self, steps: int, seconds: float = 0.0) -> bool:
        """Whether the budget is used up."""
        return self.progress(steps, seconds) >= 1.0
