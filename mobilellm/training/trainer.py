"""Devices, strategy and precision of training. Importable without torch or Lightning."""

import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from mobilellm.ranges import Range, check_fields
from mobilellm.training.process_rank import ProcessRank, find_process_rank

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from mobilellm.training.execution import Execution

ACCELERATORS = ("auto", "cpu", "cuda", "mps")
STRATEGIES = ("auto", "ddp", "fsdp")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "bf16-true")
COUNT = Range(at_least=1, cap=1_000_000)


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Devices, strategy and precision of a run; they change its result by rounding at most.

    Raises:
        ValueError: a choice is unknown, or a count is below 1.
    """

    accelerator: str = "auto"
    """`cpu`, `cuda`, `mps`, or `auto`: the first of cuda, mps and cpu that is available."""
    devices: int | Literal["auto"] = "auto"
    """Devices per node; `auto`: as many as torchrun or srun started, else all GPUs or one CPU."""
    num_nodes: int = 1
    """Number of machines."""
    strategy: str = "auto"
    """`ddp`, `fsdp` (sharded parameters), or `auto`: `ddp` if there are several devices."""
    precision: str = "auto"
    """`auto`: `bf16-mixed` on GPUs that support it, else `32-true`."""
    num_threads: int | None = None
    """Number of CPU threads of torch; None: torch's default."""
    compile: bool = False
    """Compile each block: faster on GPUs, no gain on CPUs."""
    activation_checkpointing: bool = False
    """Keep only each block's input and recompute the rest in the backward pass: this saves memory
    and takes a third more computation."""
    float8: bool = False
    """Multiply the matrices of the blocks in 8-bit floating point: faster for models of 600M and
    more on GPUs that can, and less exact."""
    cuda_graph: bool = False
    """Launch the kernels of a micro-batch at once, as one CUDA graph: many times as fast for small
    models, whose kernels take longer to launch than to run."""
    profiler: Literal["simple", "advanced"] | None = None
    """Lightning's profiler, `simple` or `advanced`, which reports at the end and slows training."""
    detect_anomaly: bool = False
    """Let autograd name the operation that produced a NaN; much slower."""
    deterministic: bool | Literal["warn"] | None = None
    """Use deterministic algorithms of torch; `warn`: only warn about operations that have none."""
    benchmark: bool | None = None
    """Let cuDNN choose the fastest algorithm by measuring."""

    def __post_init__(self) -> None:
        """Check the choices."""
        check_fields(
            self,
            "trainer.",
            devices=COUNT,
            num_nodes=COUNT,
            num_threads=Range(at_least=1, cap=4096, remedy="null: torch's default"),
        )
        for name, choices in (
            ("accelerator", ACCELERATORS), ("strategy", STRATEGIES), ("precision", PRECISIONS)
        ):  # fmt: skip
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"trainer.{name}={getattr(self, name)!r} is not known; "
                    f"use one of {', '.join(choices)}"
                )

    @property
    def execution(self) -> "Execution":
        """The options for speed and memory."""
        from mobilellm.training.execution import Execution

        return Execution(**{field.name: getattr(self, field.name) for field in fields(Execution)})

    @property
    def device_type(self) -> str:
        """`cpu`, `cuda` or `mps`.

        Raises:
            ValueError: this machine does not have the accelerator.
        """
        import torch

        present = {
            "cuda": torch.cuda.is_available(),
            "mps": torch.backends.mps.is_available(),
            "cpu": True,
        }
        if self.accelerator == "auto":
            return next(name for name, is_present in present.items() if is_present)
        if not present[self.accelerator]:
            names = ", ".join(name for name, is_present in present.items() if is_present)
            raise ValueError(
                f"trainer.accelerator={self.accelerator} is not available here; use {names}"
            )
        return self.accelerator

    @property
    def process_rank(self) -> ProcessRank:
        """The rank of this process in the run.

        Raises:
            ValueError: more GPUs are requested than this machine has, or the variables of a
                launcher contradict the settings.
        """
        import torch

        count = torch.cuda.device_count() if self.device_type == "cuda" else 1
        process_rank = find_process_rank(self.devices, self.num_nodes, count)
        if self.device_type != "cpu" and process_rank.local_world_size > count:
            raise ValueError(
                f"trainer.devices={self.devices}, but this machine has {count}; use at most {count}"
            )
        return process_rank

    @property
    def num_devices(self) -> int:
        """Number of processes per node; raises the errors of `process_rank`."""
        return self.process_rank.local_world_size

    @property
    def world_size(self) -> int:
        """Number of processes in total; raises the errors of `process_rank`."""
        return self.process_rank.world_size

    @property
    def resolved_precision(self) -> str:
        """The precision to use if `precision` is `auto`, else `precision`."""
        if self.precision != "auto":
            return self.precision
        import torch

        from mobilellm.bfloat16 import multiplies_bfloat16

        is_mixed = self.device_type == "cuda" and multiplies_bfloat16(torch.device("cuda"))
        return "bf16-mixed" if is_mixed else "32-true"


def make_trainer(
    config: TrainerConfig,
    *,
    max_steps: int | None = None,
    callbacks: Iterable[Any] = (),
    loggers: Iterable[Any] = (),
    log_steps: int = 10,
) -> "Trainer":
    """Make Lightning's trainer, without the features that this project implements itself.

    Validation, logging, progress and checkpoints belong to the module and the callbacks; Lightning
    creates no folders, does no sanity check and prints no messages.

    Args:
        config: devices, strategy and precision.
        max_steps: number of optimizer steps; None: until the module stops the training.
        callbacks: Lightning callbacks; those that write checkpoints run last.
        loggers: Lightning loggers.
        log_steps: optimizer steps between two values that Lightning's own callbacks log.
    """
    import torch
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import Checkpoint

    from mobilellm.training.checkpoint_io import AtomicCheckpointIO
    from mobilellm.training.cluster_environment import cluster_environment

    _quieten_lightning()
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    if config.device_type == "cuda":
        torch.set_float32_matmul_precision("high")
    process_rank = config.process_rank
    # Given explicitly: Lightning would otherwise use any rank variables of the environment, and
    # for requeueing it would save inside the signal handler.
    plugins: list[Any] = [AtomicCheckpointIO(), cluster_environment(process_rank)]
    callbacks = list(callbacks)
    return Trainer(
        accelerator="gpu" if config.device_type == "cuda" else config.device_type,
        devices=process_rank.local_world_size,
        num_nodes=config.num_nodes,
        strategy=_make_strategy(config),
        precision=config.resolved_precision,  # pyright: ignore[reportArgumentType]
        max_steps=-1 if max_steps is None else max_steps,
        max_epochs=-1,
        logger=list(loggers),
        callbacks=callbacks,
        plugins=plugins,
        profiler=config.profiler,
        detect_anomaly=config.detect_anomaly,
        deterministic=config.deterministic,
        benchmark=config.benchmark,
        # With a validation loop, Lightning's own callbacks act at `on_validation_end`, which the
        # module calls, and not at the end of an epoch, of which a run has at most one.
        check_val_every_n_epoch=None,
        val_check_interval=1,
        log_every_n_steps=log_steps,
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )


def _make_strategy(config: TrainerConfig) -> Any:
    if config.strategy == "fsdp":
        from lightning.pytorch.strategies import ModelParallelStrategy

        return ModelParallelStrategy(
            data_parallel_size=config.world_size,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
        )
    if config.strategy == "ddp" or config.world_size > 1:
        from lightning.pytorch.strategies import DDPStrategy

        return DDPStrategy(gradient_as_bucket_view=True)
    return "auto"


def _quieten_lightning() -> None:
    """Hide Lightning's tips, and its warnings about intended choices."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The report of a requested profiler is logged at this level.
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)
    for message in (
        ".*does not have many workers.*",
        ".*`isinstance\\(treespec, LeafSpec\\)`.*",
        ".*GPU available but not used.*",
        ".*`srun` command is available on your system but is not used.*",
        ".*Precision bf16-mixed is not supported by the model summary.*",
        ".*FSDP2-wrapped module .* returned a view tensor.*",
        ".*resuming from a checkpoint that ended before the epoch ended.*",
    ):
        warnings.filterwarnings("ignore", message)
