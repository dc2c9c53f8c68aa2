"""How often a run trains on the same text."""

from mobilellm.data import PreparedData
from mobilellm.pipeline.run import Run

MOST_PASSES = 4.0
"""Repeating text up to this number of times is about as good as new text.

Source: Muennighoff et al. 2023, arXiv:2305.16264, section 6.
"""


def passes_over_data(run: Run, prepared: PreparedData) -> float | None:
    """Tokens of the run's budget over tokens of its training text; None without a token limit."""
    steps = run.budget.total_steps
    tokens = _tokens(run, prepared)
    return None if steps is None else steps * run.budget.tokens_per_step / tokens


def _tokens(run: Run, prepared: PreparedData) -> int:
    """Tokens of the training text, or the positions of its windows, if there is padding."""
    tokens = prepared.manifest["splits"]["train"]["tokens"]
    return max(tokens, prepared.tokens_per_epoch(run.config["sequence_length"]))


def repeated_data_warning(run: Run, prepared: PreparedData) -> str | None:
    """A line for the log if the budget is more than `MOST_PASSES` times the training text."""
    passes = passes_over_data(run, prepared)
    if passes is None or passes <= MOST_PASSES:
        return None
    tokens = _tokens(run, prepared)
    return (
        f"the budget is {passes:.1f} times the {tokens:,} tokens of training text in "
        f"{prepared.dir}; up to about {MOST_PASSES:g} times, repeated text is nearly as good as "
        f"new; use more text, or max_tokens={MOST_PASSES * tokens:.0f} or less"
    )
