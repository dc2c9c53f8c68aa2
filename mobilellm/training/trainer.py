"""The trainer: which device, how many, which precision. Importable without torch or Lightning."""

import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mobilellm.ranges import Range, check_fields
from mobilellm.training.places import Place, find_place

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

ACCELERATORS = ("auto", "cpu", "cuda", "mps")
STRATEGIES = ("auto", "ddp", "fsdp")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "bf16-true")
COUNT = Range(at_least=1, cap=1_000_000)


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Where and how a run is computed; nothing here changes what is learnt but for rounding.

    Raises:
        ValueError: an unknown choice, or a count below 1.
    """

    accelerator: str = "auto"
    """`auto` (the first of cuda, mps, cpu that there is), `cpu`, `cuda` or `mps`."""
    devices: int | Literal["auto"] = "auto"
    """Devices per node; `auto`: as many as torchrun or srun started, else all GPUs or one CPU."""
    num_nodes: int = 1
    """Machines."""
    strategy: str = "auto"
    """`auto` (`ddp` where there are several devices), `ddp`, or `fsdp`: sharded parameters."""
    precision: str = "auto"
    """`auto`: `bf16-mixed` on GPUs that have it, else `32-true`."""
    num_threads: int | None = None
    """CPU threads of torch; None: torch's choice."""
    compile: bool = False
    """Compile each block: faster on GPUs, no gain on CPUs."""
    activation_checkpointing: bool = False
    """Keep only each block's input for the backward pass: less memory, a third more work."""
    profiler: Literal["simple", "advanced"] | None = None
    """Lightning's `simple` or `advanced` profiler, whose report is shown at the end; slower."""
    detect_anomaly: bool = False
    """Let autograd say which operation made a NaN; much slower."""
    deterministic: bool | Literal["warn"] | None = None
    """Torch's deterministic algorithms: true, or `warn` where there are none."""
    benchmark: bool | None = None
    """cuDNN's search for the quickest algorithm."""

    def __post_init__(self) -> None:
        """Check the choices."""
        check_fields(
            self,
            "trainer.",
            devices=COUNT,
            num_nodes=COUNT,
            num_threads=Range(at_least=1, cap=4096, remedy="null: torch's choice"),
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
    def device_type(self) -> str:
        """`cpu`, `cuda` or `mps`.

        Raises:
            ValueError: an accelerator that this machine does not have.
        """
        import torch

        present = {
            "cuda": torch.cuda.is_available(),
            "mps": torch.backends.mps.is_available(),
            "cpu": True,
        }
        if self.accelerator == "auto":
            return next(name for name, there in present.items() if there)
        if not present[self.accelerator]:
            there = ", ".join(name for name, there in present.items() if there)
            raise ValueError(
                f"trainer.accelerator={self.accelerator} is not available here; use {there}"
            )
        return self.accelerator

    @property
    def place(self) -> Place:
        """Which process of the run this one is.

        Raises:
            ValueError: more GPUs than there are, or what the environment says contradicts that.
        """
        import torch

        there = torch.cuda.device_count() if self.device_type == "cuda" else 1
        place = find_place(self.devices, self.num_nodes, there)
        if self.device_type != "cpu" and place.local_world_size > there:
            raise ValueError(
                f"trainer.devices={self.devices} but {there} found; use at most {there}"
            )
        return place

    @property
    def num_devices(self) -> int:
        """Processes per node; raises as `place`."""
        return self.place.local_world_size

    @property
    def world_size(self) -> int:
        """Processes in all; raises as `place`."""
        return self.place.world_size

    @property
    def resolved_precision(self) -> str:
        """`precision` without `auto`.

        CPUs without bf16 instructions compute bf16 many times slower than float32.
        """
        if self.precision != "auto":
            return self.precision
        import torch

        on_gpu = self.device_type == "cuda" and torch.cuda.is_bf16_supported()
        return "bf16-mixed" if on_gpu else "32-true"


def make_trainer(
    config: TrainerConfig,
    *,
    max_steps: int | None = None,
    callbacks: Iterable[Any] = (),
    loggers: Iterable[Any] = (),
    log_steps: int = 10,
) -> "Trainer":
    """Lightning's trainer, without what this project does by itself.

    Validation, logging, progress and checkpoints are the module's and the callbacks'; Lightning
    makes no folders, no sanity check and no messages of its own.

    Args:
        config: devices, strategy and precision.
        max_steps: optimizer steps; None: until the module says stop.
        callbacks: Lightning callbacks; those that write checkpoints run last.
        loggers: Lightning loggers.
        log_steps: optimizer steps between two values that stock callbacks log.
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
    place = config.place
    # Given, or Lightning would go by whatever rank variables are set. Requeueing is ours, too:
    # Lightning would save inside the signal handler.
    plugins: list[Any] = [AtomicCheckpointIO(), cluster_environment(place)]
    callbacks = list(callbacks)
    return Trainer(
        accelerator="gpu" if config.device_type == "cuda" else config.device_type,
        devices=place.local_world_size,
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
        # Of a validation loop: stock callbacks then look at `on_validation_end`, which the module
        # calls, and not at the end of an epoch, of which a run has no more than one.
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
    """Hide its tips, and warnings about choices that are meant."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # A profile is asked for, and tells what it found at this level.
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
