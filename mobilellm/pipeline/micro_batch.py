"""Chooses the number of windows per forward pass."""

from mobilellm.accounting import largest_micro_batch
from mobilellm.callbacks.supernet import SupernetCallback
from mobilellm.pipeline.memory import free_memory_bytes
from mobilellm.pipeline.results import callback_of
from mobilellm.pipeline.run import Run
from mobilellm.training.ranks import min_over_ranks

# Share of the free memory that micro_batch_size=auto uses, because a forecast can be too low.
MEMORY_SHARE = 0.7
# Larger batches do not fit in the CPU cache and are not faster.
AUTO_MICRO_BATCH_TOKENS = {"cpu": 4096}


def micro_batch_size(run: Run) -> int:
    """Windows per device and forward pass, the same on all ranks; must be called on all ranks.

    Raises:
        ValueError: a single window does not fit into memory.
    """
    given, length = run.config["micro_batch_size"], run.config["sequence_length"]
    if given != "auto":
        return given
    world, device = run.trainer.world_size, run.trainer.device_type
    distillation = run.parts.distillation
    teacher_bytes = 0 if distillation is None else distillation.weight_bytes(run.model)
    free_bytes = MEMORY_SHARE * min_over_ranks(free_memory_bytes(device)) - teacher_bytes
    supernet = callback_of(SupernetCallback, run.parts.callbacks)
    if supernet is not None:
        # The activations of all networks of a step are in memory at the same time.
        free_bytes /= supernet.num_networks
    size = largest_micro_batch(
        run.model,
        free_bytes,
        length,
        divides=run.samples_per_step // world,
        optimizer=run.optimizer_name,
        precision=run.trainer.resolved_precision,
        activation_checkpointing=run.trainer.activation_checkpointing,
        accelerator=device,
        num_shards=world if run.trainer.strategy == "fsdp" else 1,
        document_mask=run.data.document_mask,
    )
    most = max(1, AUTO_MICRO_BATCH_TOKENS.get(device, size * length) // length)
    return max(n for n in range(1, min(size, most) + 1) if size % n == 0)
