"""Chooses the number of windows per forward pass."""

from mobilellm.accounting import largest_micro_batch
from mobilellm.callbacks.supernet import SupernetCallback
from mobilellm.pipeline.memory import free_memory_bytes
from mobilellm.pipeline.micro_batch_trial import fastest_micro_batch
from mobilellm.pipeline.results import callback_of
from mobilellm.pipeline.run import Run
from mobilellm.training.ranks import min_over_ranks

# Share of the free memory that micro_batch_size=auto uses, because a forecast can be too low.
MEMORY_SHARE = 0.7
# Larger batches do not fit in the CPU cache and are not faster.
AUTO_MICRO_BATCH_TOKENS = {"cpu": 4096}


# Without a GPU, too large a size may end the process instead of raising an error.
MEASURED_SHARE = {"cuda": 4.0}
"""Sizes are tried up to those whose forecast is this share of the free memory; default: 1."""


def micro_batch_size(run: Run, *, measures: bool = True) -> int:
    """Windows per device and forward pass, the same on all ranks; must be called on all ranks.

    Args:
        run: the planned run.
        measures: whether `measure` tries sizes; if not, it is taken as `auto`.

    Raises:
        ValueError: a single window does not fit into memory, or the run cannot be measured.
    """
    given = run.config["micro_batch_size"]
    if given == "measure" and measures:
        _check_measurable(run)
        most = _largest(run, MEASURED_SHARE.get(run.trainer.device_type, 1.0))
        return int(min_over_ranks(fastest_micro_batch(run, most)))
    if given not in ("auto", "measure"):
        return given
    size, length = _largest(run, MEMORY_SHARE), run.config["sequence_length"]
    most = max(1, AUTO_MICRO_BATCH_TOKENS.get(run.trainer.device_type, size * length) // length)
    return max(n for n in range(1, min(size, most) + 1) if size % n == 0)


def _check_measurable(run: Run) -> None:
    """Check that a step of the run consists of what is measured.

    Raises:
        ValueError: it does not.
    """
    others = {
        "a teacher": run.parts.distillation is not None,
        "the sub-networks of a supernet": callback_of(SupernetCallback, run.parts.callbacks),
        "trainer=fsdp": run.trainer.strategy == "fsdp",
    }
    found = [name for name, is_there in others.items() if is_there]
    if found:
        raise ValueError(
            f"micro_batch_size=measure tries steps without {found[0]}, which this run has; use "
            "micro_batch_size=auto or a number"
        )


def _largest(run: Run, share: float) -> int:
    """The largest size whose forecast is at most this share of the free memory of all ranks.

    Raises:
        ValueError: a single window does not fit.
    """
    length = run.config["sequence_length"]
    world, device = run.trainer.world_size, run.trainer.device_type
    distillation = run.parts.distillation
    teacher_bytes = 0 if distillation is None else distillation.weight_bytes(run.model)
    free_bytes = share * min_over_ranks(free_memory_bytes(device)) - teacher_bytes
    supernet = callback_of(SupernetCallback, run.parts.callbacks)
    if supernet is not None:
        # The activations of all networks of a step are in memory at the same time.
        free_bytes /= supernet.num_networks
    return largest_micro_batch(
        run.trained_model,
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
