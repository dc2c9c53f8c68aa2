"""The fits of a run: one, or one per stage of compression."""

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
    """The stages that are left of a run; called on all ranks.

    Args:
        run: that is trained.
        module: with the initial model.
        data: that is trained on.
        checkpoint: to resume from; None: the run begins.
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
    """The facts of summary.json about compression, also written as a report; empty without.

    Args:
        run: that was trained.
        results: of its last fit; if the run is finished, time and memory of the compressed
            structure are measured too.
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
