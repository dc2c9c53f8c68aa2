"""Distilling step by step: the student learns labels and, as an auxiliary task, rationales."""

from typing import Any

from lightning.pytorch import Callback

from mobilellm.ranges import Range, checked


class StepByStepCallback(Callback):
    """Sets the weight of the rationale task relative to the label task.

    The loss is the mean cross entropy of the labels' tokens, plus `rationale_weight` times that of
    the rationales' tokens; the log shows both as `train/loss/label` and `train/loss/rationale`.

    Args:
        rationale_weight: λ in the paper.

    Raises:
        ValueError: the weight is negative or not finite.

    Source: Hsieh et al. 2023, arXiv:2305.02301, equation (4).
    """

    @checked(
        rationale_weight=Range(
            at_least=0,
            cap=1e6,
            remedy="to train without rationales use distillation=none data.tasks=[label]",
        )
    )
    def __init__(self, *, rationale_weight: float = 1.0) -> None:
        """Check and keep the weights."""
        self.task_weights = {"label": 1.0, "rationale": rationale_weight}

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Check that the data have rationales.

        Raises:
            ValueError: the data have no rationales.
        """
        tasks = getattr(trainer.datamodule.prepared, "tasks", ())
        if "rationale" not in tasks:
            raise ValueError(
                f"distillation=step_by_step needs rationales, but the data's tasks are "
                f"[{','.join(tasks)}]; use data=rationales data.tasks=[label,rationale], or "
                "distillation=none"
            )
