"""Checks that the trainer's options for GPUs fit the other parts of a run."""

from mobilellm.callbacks.supernet import SupernetCallback
from mobilellm.losses.loss_terms import HasLossTerms
from mobilellm.pipeline.run import Run
from mobilellm.training.float8 import check_float8
from mobilellm.units import join_names


def check_gpu_options(run: Run, num_devices: int, *, on_this_machine: bool) -> None:
    """Check `trainer.float8` and `trainer.cuda_graph`.

    Args:
        run: the run.
        num_devices: its devices, over all nodes.
        on_this_machine: whether the run trains on this machine, which must then have such a GPU.

    Raises:
        ModuleNotFoundError: `trainer.float8` needs torchao, which is not installed.
        ValueError: an option cannot be combined with another part of the run, or with the GPU.
    """
    trainer, parts = run.trainer, run.parts
    replaces_layers = {
        "compression": parts.compression is not None,
        "distillation=supernet": any(isinstance(c, SupernetCallback) for c in parts.callbacks),
        "trainer.strategy=fsdp": trainer.strategy == "fsdp",
    }
    # A graph repeats the recorded kernels with the numbers that the host had given them.
    differs_between_steps = {
        **replaces_layers,
        "distillation": parts.distillation is not None,
        "a callback with loss terms": any(isinstance(c, HasLossTerms) for c in parts.callbacks),
        "data.document_mask=true": run.data.document_mask,
        "trainer.activation_checkpointing=true": trainer.activation_checkpointing,
        f"{num_devices} devices": num_devices > 1,
    }
    if trainer.float8:
        _refuse("float8", replaces_layers | {"an adapter": parts.adapter is not None})
        if on_this_machine:
            check_float8()
    if trainer.cuda_graph:
        is_elsewhere = on_this_machine and trainer.device_type != "cuda"
        device = {f"the device {trainer.accelerator}": is_elsewhere}
        _refuse("cuda_graph", differs_between_steps | device)


def _refuse(option: str, others: dict[str, bool]) -> None:
    found = [name for name, is_there in others.items() if is_there]
    if found:
        raise ValueError(
            f"trainer.{option}=true cannot be combined with {join_names(found)}; "
            f"use trainer.{option}=false"
        )
