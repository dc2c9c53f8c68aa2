"""A table of the model, the data and the machine, printed before the first step."""

import platform
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback
from rich.console import Console
from rich.table import Table

from mobilellm.accounting import count_parameters, flops_per_token, training_memory_bytes
from mobilellm.accounting.table import shape_line
from mobilellm.units import bytes_text, si_text

Row = tuple[str, str]
# Names of optimizers for the memory forecast, by their classes; others need as much as AdamW.
KNOWN_OPTIMIZERS = {"MuonWithAdamW": "muon", "AdamW8bit": "adamw8bit"}


class RunSummaryCallback(Callback):
    """Prints the model's shape and size, the budget, batch, data, device and memory forecast."""

    watches_only = True

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Print the table once, on the first process."""
        if not trainer.is_global_zero:
            return
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")  # long paths are not cropped
        for rows in (_model_rows, _callback_rows, _budget_rows, _machine_rows):
            for row in rows(trainer, pl_module):
                table.add_row(*row)
        Console(soft_wrap=True).print(table)


def _model_rows(trainer: Any, module: Any) -> Iterator[Row]:
    config = module.model.config
    counts = count_parameters(config)
    flops = flops_per_token(config, trainer.datamodule.sequence_length)
    yield "model", shape_line(config.to_dict() | {"num_layers": config.num_layers})
    yield (
        "parameters",
        f"{counts.stored:,} stored = {counts.embedding:,} embedding + {counts.body:,} body; "
        f"{counts.executed:,} executed",
    )
    yield "FLOPs per token", f"{si_text(flops.forward)} forward, {si_text(flops.training)} training"


def _callback_rows(trainer: Any, module: Any) -> Iterator[Row]:
    """One row for each callback that describes itself."""
    for callback in trainer.callbacks:
        describe = getattr(callback, "describe", None)
        if describe is not None:
            yield describe()


def _budget_rows(trainer: Any, module: Any) -> Iterator[Row]:
    data, budget = trainer.datamodule, module.budget
    windows = data.micro_batch_size * trainer.world_size
    parts = (
        f"{data.micro_batch_size} windows x {data.sequence_length:,} tokens",
        f"{data.samples_per_step // windows} micro-batches",
        f"{trainer.world_size} devices",
    )
    yield "tokens per step", f"{budget.tokens_per_step:,} = {' x '.join(parts)}"
    if budget.total_steps is not None:
        tokens = budget.total_steps * budget.tokens_per_step
        yield "budget", f"{tokens:,} tokens in {budget.total_steps:,} steps"
    if budget.max_seconds is not None:
        yield "time limit", f"{budget.max_seconds:,.0f} seconds"
    if module.global_step:
        yield "resumes from", f"step {module.global_step:,}, {module.tokens:,} tokens"
    train = len(data.train_windows) * data.sequence_length
    validation = data.num_validation_windows * data.sequence_length
    yield "data", f"{train:,} tokens to train on, {validation:,} to validate on"


def _machine_rows(trainer: Any, module: Any) -> Iterator[Row]:
    device = trainer.strategy.root_device
    sharded = module.device_mesh is not None
    memory = training_memory_bytes(
        module.model.config,
        trainer.datamodule.micro_batch_size,
        trainer.datamodule.sequence_length,
        optimizer=KNOWN_OPTIMIZERS.get(type(trainer.optimizers[0]).__name__, "adamw"),
        precision=trainer.precision,
        activation_checkpointing=module.execution.activation_checkpointing,
        accelerator=device.type,
        num_shards=trainer.world_size if sharded else 1,
        document_mask=trainer.datamodule.batches.document_mask,
    )
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    parts = [f"{trainer.world_size} x {device.type} ({name})", trainer.precision]
    yield "device", ", ".join([*parts, *module.execution.describe()])
    yield "memory forecast", f"{bytes_text(memory.total)} per device"
