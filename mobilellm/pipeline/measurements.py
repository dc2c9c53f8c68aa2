"""What a run led to, for its summary."""

from typing import Any

from mobilellm.pipeline.memory import peak_memory_bytes
from mobilellm.pipeline.plan import Run
from mobilellm.pipeline.summary import describe_model, timestamp
from mobilellm.provenance import device_name


def measurements(run: Run, trainer: Any, module: Any) -> dict[str, Any]:
    """What the run led to: losses in nats per token, rates per second, memory in bytes."""
    import torch

    from mobilellm.callbacks.throughput import ThroughputCallback
    from mobilellm.training.compilation import compiled_graphs, tell_if_uncompiled

    device = run.trainer.device_type
    validation, seconds = module.validation_result, module.elapsed_seconds
    throughput = find_callback(trainer, ThroughputCallback)
    rate = getattr(throughput, "tokens_per_second", None)
    if run.trainer.compile and rate is not None:
        tell_if_uncompiled()
    return {
        "status": "finished" if module.finished else "stopped",
        "tokens": module.tokens,
        "steps": module.global_step,
        "val_loss": None if validation is None else validation.loss,
        "val_bits_per_byte": None if validation is None else validation.bits_per_byte,
        "train_loss": module.latest_metrics.get("train/loss"),
        "learning_rate": run.learning_rate,
        "wall_seconds": seconds,
        "tokens_per_second": rate,
        "compiled_graphs": compiled_graphs() if run.trainer.compile else None,
        "model_flops_utilization": getattr(throughput, "model_flops_utilization", None),
        "matmul_flops_per_second": getattr(throughput, "matmul_flops_per_second", None),
        "peak_memory_bytes": peak_memory_bytes(device),
        "micro_batch_size": trainer.datamodule.micro_batch_size,
        "device": device_name(device),
        "devices": run.trainer.world_size,
        "threads": torch.get_num_threads(),
        "precision": run.trainer.resolved_precision,
        "finished_at": timestamp(),
        **_callback_summaries(trainer),
        **describe_model(module.model.config, run.config["sequence_length"]),
    }


def find_callback(trainer: Any, kind: type) -> Any:
    """The callback of this kind, None where it is switched off."""
    return next((c for c in trainer.callbacks if isinstance(c, kind)), None)


def _callback_summaries(trainer: Any) -> dict[str, Any]:
    """What callbacks have to say of the run, by their own names."""
    found: dict[str, Any] = {}
    for callback in trainer.callbacks:
        found |= getattr(callback, "summary", dict)()
    return found
