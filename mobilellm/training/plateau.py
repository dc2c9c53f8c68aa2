"""When a schedule leaves its plateau."""

from typing import Any

from mobilellm.optim.schedules import is_falling


def leaves_plateau(module: Any) -> bool:
    """Whether the next step is the first in which the rate falls; one answer for all ranks.

    Exact where tokens or steps end the run. Where time does, the next step's rate depends on when
    it begins, and it may be the second.

    Args:
        module: a LanguageModelModule between two steps.
    """
    step, budget, schedule = module.global_step, module.budget, module.schedule
    if not is_falling(schedule, 1.0):
        return False
    seconds = module.agreed_seconds()
    now = module.progress or budget.progress(step, seconds)
    return not is_falling(schedule, now) and bool(
        is_falling(schedule, budget.progress(step + 1, seconds))
    )
