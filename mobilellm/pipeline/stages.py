"""The fits of a run: a single one, or one per compression stage."""

from collections.abc import Iterator
from pathlib import Path

from mobilellm.callbacks.compression_stages import FOLDER, REPORT, Stage
from mobilellm.compression.measurement import measure_structures
from mobilellm.files import write_text_atomically
from mobilellm.pipeline.results import Facts, Results
from mobilellm.pipeline.run import Run
from mobilellm.strict_json import to_json
from mobilellm.training.datamodule import TokenDataModule
from mobilellm.training.module import LanguageModelModule
from mobilellm.training.ranks import is_first_process


def stages_of(
    run: Run, module: LanguageModelModule, data: TokenDataModule, checkpoint: Path | None
) -> Iterator[Stage]:
    """The remaining stages of a run; must be called on all ranks.

    Args:
        run: the run.
        module: the Lightning module with the initial model.
        data: the training data.
        checkpoint: the checkpoint to resume from; None at the start of a run.
    """
    compression, distillation = run.parts.compression, run.parts.distillation
    if compression is None:
        total = run.budget.total_steps
        steps = -1 if total is None else total
        yield Stage(module=module, checkpoint=checkpoint, max_steps=steps, is_last=True)
        return
    origin = run.config["init_from"]
    yield from compression.stages(
        module,
        data,
        run.folder,
        checkpoint=checkpoint,
        keep_dense=distillation is not None and distillation.is_dense,
        device="cuda" if run.trainer.device_type == "cuda" else "cpu",
        mixed_precision=run.trainer.resolved_precision == "bf16-mixed",
        weights_from=None if origin is None else f"init_from={origin}",
    )


def report_stages(run: Run, results: Results) -> Facts:
    """Write the report about compression and return its entry for summary.json.

    Args:
        run: the run, after its last fit.
        results: the results of the last fit. If the run is finished, the report also contains the
            latency of the compressed model.

    Returns:
        Empty if the run has no compression.
    """
    compression = run.parts.compression
    if compression is None:
        return {}
    stages = compression.report(results.val_loss)
    report: Facts = {"recipe": run.config["compression"], "stages": stages}
    # Only the first process measures and writes: nothing here may communicate with the others.
    if is_first_process():
        if results.status == "finished" and results.model != run.model:
            report["latency"] = measure_structures(run.model, results.model)
        write_text_atomically(run.folder / FOLDER / REPORT, to_json(report, default=str) + "\n")
    return {"compression": report}
