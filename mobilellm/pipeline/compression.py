"""Between the stages of a compressed run: the model and the last checkpoint change their structure.

Nothing is held in memory from one stage to the next: where a run stands follows from its last
checkpoint, so that a killed run does what one left alone does.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mobilellm.callbacks.compression import CompressionCallback
from mobilellm.checkpoint import model_from_state, save_model
from mobilellm.compression.measured import measure_structures
from mobilellm.compression.stages import Stages
from mobilellm.evaluation.untrained import warn_if_untrained
from mobilellm.evaluation.validation import sum_losses
from mobilellm.files import write_text_atomically
from mobilellm.models import ModelConfig
from mobilellm.pipeline.parts import DENSE_MODEL, make_model, make_module
from mobilellm.pipeline.run import Run
from mobilellm.strict_json import to_json
from mobilellm.training.atomic_save import check_same_model, save_atomically
from mobilellm.training.carry_over import PREFIX, carry_over
from mobilellm.training.ranks import first_does, is_first_process

FOLDER = "compression"
PLAN = "plan.json"
REPORT = "report.json"
# The model compressed before the first step, until there is a checkpoint.
START = "start.ckpt"


@dataclass(frozen=True)
class Stage:
    """One `fit`: what it begins with and where it ends."""

    model: Any
    end: int | None
    """Optimizer steps of the run done when the stage ends; None: only time ends it."""
    is_last: bool


def enter_stage(
    run: Run, data: Any, compression: CompressionCallback, checkpoint: Path | None
) -> Stage:
    """Compress where it is due and give the next stage; called on all processes.

    The first process replaces the checkpoint by that of the compressed model, as a whole; the
    others wait for it, so that nothing in between may ask them. Killed before, the same is done
    again.

    Args:
        run: what is trained.
        data: a data module that no trainer has, to calibrate and to measure on.
        compression: says when and on what.
        checkpoint: the last one; None: there is none.
    """
    path = checkpoint or run.folder / FOLDER / START
    starts = compression.starts(run.budget)

    def is_due() -> bool:
        state = _read(path) if path.exists() else None
        done = 0 if state is None else len(_records(state, compression))
        step = 0 if state is None else state["progress"]["step"]
        return done < len(starts) and starts[done] <= step

    def advance() -> None:
        if is_due():
            save_atomically(_advance(run, data, compression, path), path)

    first_does(advance)
    if not path.exists():
        return Stage(make_model(run), starts[0], is_last=False)
    state = _read(path)
    compression.records = _records(state, compression)
    done = len(compression.records)
    _check_base(run, state, done)
    is_last = done == len(starts)
    model = _model(ModelConfig.from_dict(state["model_config"]), state, path)
    return Stage(model, run.budget.total_steps if is_last else starts[done], is_last)


def finish(
    run: Run,
    compression: CompressionCallback | None,
    val_loss: float | None,
    config: Any = None,
) -> dict[str, Any]:
    """The summary's part about compression, also written as a report; empty without compression.

    Args:
        run: the run.
        compression: with what its stages did.
        val_loss: of the model as it is now, nats per token.
        config: of the finished model, whose time and memory are then measured; None: not finished.
    """
    if compression is None:
        return {}
    after = [record["loss_before"] for record in compression.records[1:]] + [val_loss]
    stages = [
        record | {"loss_recovered": loss}
        for record, loss in zip(compression.records, after, strict=False)
    ]
    report = {"recipe": run.config["compression"], "stages": stages}
    if is_first_process():
        if config is not None and config != run.model:
            report["latency"] = measure_structures(run.model, config)
        folder = run.folder / FOLDER
        write_text_atomically(folder / REPORT, to_json(report, default=str) + "\n")
    return {"compression": report}


def _advance(run: Run, data: Any, compression: CompressionCallback, path: Path) -> dict[str, Any]:
    """The checkpoint of the next stage, from the one in `path` or from the initial model."""
    if path.exists():
        checkpoint = _read(path)
        model = _model(ModelConfig.from_dict(checkpoint["model_config"]), checkpoint, path)
    else:
        checkpoint = {"callbacks": {}, "progress": {"step": 0, "tokens": 0}}
        model = make_model(run)
    records = _records(checkpoint, compression)
    distillation = run.parts.distillation
    if not records and distillation is not None and distillation.is_dense:
        save_model(model, run.folder / DENSE_MODEL)
    _check_base(run, checkpoint | {"model_config": model.config.to_dict()}, len(records))
    compressed, record = _compress(run, data, compression, model, len(records))
    record |= {key: checkpoint["progress"][key] for key in ("step", "tokens")}
    state = {"records": [*records, {"stage": len(records) + 1, **record}]}
    result = carry_over(checkpoint, make_module(run, model), make_module(run, compressed))
    return result | {"callbacks": checkpoint["callbacks"] | {compression.state_key: state}}


def _compress(
    run: Run, data: Any, compression: CompressionCallback, model: Any, number: int
) -> tuple[Any, dict[str, Any]]:
    """The model with the layers of stage `number` (from 0) compressed, and what that did."""
    started = time.monotonic()
    device = "cuda" if run.trainer.device_type == "cuda" else "cpu"
    calibration = data.calibration_batches(compression.calibration_tokens)

    def loss_of(model: Any) -> float:
        mixed = run.trainer.resolved_precision == "bf16-mixed"
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            return sum_losses(model, data.validation_batches()).loss

    model = model.to(device)
    # Whatever a recipe draws at random is drawn alike each time, and not from training's state.
    with torch.random.fork_rng():
        torch.manual_seed(run.config["seed"])
        before = loss_of(model)
        if number == 0 == compression.starts(run.budget)[0] and run.config["init_from"] is not None:
            warn_if_untrained(before, run.model.vocab_size, f"init_from={run.config['init_from']}")
        plan = _plan(run, compression, model, calibration, number)
        compressed = compression.recipe.apply(model, plan, calibration)
        after = loss_of(compressed.model)
    record = {
        "layers": plan.layer_report(compressed.errors),
        "loss_before": before,
        "loss_after": after,
        "parameters_before": _count(model),
        "parameters_after": _count(compressed.model),
        "seconds": round(time.monotonic() - started, 3),
    }
    model.to("cpu")
    return compressed.model.to("cpu"), record


def _plan(
    run: Run, compression: CompressionCallback, model: Any, calibration: Any, number: int
) -> Any:
    """The plan of stage `number`: made as a whole and saved at the first, then read."""
    path = run.folder / FOLDER / PLAN
    saved = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    plan: Any = compression.recipe.plan_from_dict(saved["plan"]) if saved else None
    if saved.get("stages"):
        return plan.only(Stages.from_dict(saved["stages"]).groups[number])
    if number:
        raise FileNotFoundError(
            f"{path} is missing: it says what stage {number + 1} compresses; put it back, or "
            "remove the run's folder and start again"
        )
    if plan is None:
        plan = compression.recipe.plan(model, calibration)
        # At once: a search takes minutes, and dividing its result into stages may yet fail.
        _save_plan(path, plan, None)
    _show(plan)
    stages = compression.stages(plan, model.config, run.budget)
    _save_plan(path, plan, stages)
    return plan if stages is None else plan.only(stages.groups[number])


def _save_plan(path: Path, plan: Any, stages: Any) -> None:
    values = {"plan": plan.to_dict(), "stages": stages and stages.to_dict()}
    write_text_atomically(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def _show(plan: Any) -> None:
    """Print what is going to change, before it does."""
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 80, highlight=False)
    console.print(plan.table())


def _check_base(run: Run, state: dict[str, Any], done: int) -> None:
    """Before the first stage the model is the configured one; later its plan's."""
    if done == 0:
        check_same_model(state["model_config"], run.model.to_dict())


def _records(state: dict[str, Any], compression: CompressionCallback) -> list[dict[str, Any]]:
    return list(state["callbacks"].get(compression.state_key, {}).get("records", []))


def _read(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _model(config: Any, state: dict[str, Any], path: Path) -> Any:
    """The model in a checkpoint, in memory of its own."""
    weights = {k.removeprefix(PREFIX): v.clone() for k, v in state["state_dict"].items()}
    return model_from_state(config, weights, path)


def _count(model: Any) -> int:
    """Stored parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
