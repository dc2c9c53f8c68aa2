"""The fits of a run: one, or one per stage of compression."""

from pathlib import Path

from mobilellm.pipeline import compression
from mobilellm.pipeline.compression import Stage
from mobilellm.pipeline.parts import make_model
from mobilellm.pipeline.results import Facts, Results
from mobilellm.pipeline.run import Run
from mobilellm.training.datamodule import TokenDataModule


def enter_stage(run: Run, data: TokenDataModule | None, checkpoint: Path | None) -> Stage:
    """The model of the next fit, compressed if that is due; called on all ranks.

    Args:
        run: that is trained.
        data: a data module without a trainer, to calibrate and to measure on; None without
            compression.
        checkpoint: that the fit begins with; None: the run begins.
    """
    if run.parts.compression is None or data is None:
        return Stage(make_model(run), run.budget.total_steps, is_last=True)
    return compression.enter_stage(run, data, run.parts.compression, checkpoint)


def report_stages(run: Run, results: Results) -> Facts:
    """The facts of summary.json about compression; empty without compression.

    Args:
        run: that was trained.
        results: of its last fit.
    """
    config = results.model if results.status == "finished" else None
    return compression.finish(run, run.parts.compression, results.val_loss, config)
