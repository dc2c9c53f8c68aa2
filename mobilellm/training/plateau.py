"""Detect the step at which the learning rate leaves its plateau."""

from typing import Any

from mobilellm.optim.schedules import is_decaying


def leaves_plateau(module: Any) -> bool:
    """Whether the learning rate decays for the first time in the next step; equal on all ranks.

    This is exact if tokens or steps limit the run. If time limits it, the rate of the next step
    depends on when the step begins, and the answer may be one step late.

    Args:
        module: a LanguageModelModule between two steps.
    """
    step, budget, schedule = module.global_step, module.budget, module.schedule
    if not is_decaying(schedule, 1.0):
        return False
    seconds = module.mean_elapsed_seconds()
    now = module.progress or budget.progress(step, seconds)
    return not is_decaying(schedule, now) and bool(
        is_decaying(schedule, budget.progress(step + 1, seconds))
    )
