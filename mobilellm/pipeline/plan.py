"""A run's configuration, checked as a whole before any data is read.

Every part checks itself when it is built; here is what only the parts together can know.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from mobilellm.hydra_app.configuration import instantiate
from mobilellm.hydra_app.root_keys import checked_config
from mobilellm.launchers.local.gpus import visible_gpus
from mobilellm.models import ModelConfig
from mobilellm.paths import check_writable
from mobilellm.pipeline.end_of_text import with_ids_of_data
from mobilellm.pipeline.extension import Extension, extended_config, find_extension
from mobilellm.pipeline.given_weights import data_of_run, with_initial_model
from mobilellm.pipeline.identity import config_hash, find_run_folder
from mobilellm.pipeline.part_checks import check_parts, check_targets, check_windows
from mobilellm.pipeline.recorded import with_recorded
from mobilellm.run_folder import check_may_start, read_summary
from mobilellm.training.training_budget import TrainingBudget

if TYPE_CHECKING:
    from mobilellm.data import DataConfig
    from mobilellm.training.trainer import TrainerConfig


@dataclass(frozen=True)
class Run:
    """A checked configuration and its parts that are plain data."""

    config: dict[str, Any]
    """The whole resolved configuration."""
    overrides: tuple[str, ...]
    """What was said on the command line."""
    folder: Path
    """Where everything of the run goes."""
    model: ModelConfig
    data: "DataConfig"
    trainer: "TrainerConfig"
    budget: TrainingBudget
    resume: bool
    """Whether an unfinished run may be continued."""
    is_sweep: bool
    """Whether it is one trial of several."""
    identity: str = ""
    """Hash of the settings that may change the result."""
    extension: Extension | None = None
    """Where it goes on from, if it extends another run."""
    changes: tuple[str, ...] = ()
    """Where an unfinished run is continued: its settings that were others, or stay others."""

    @property
    def samples_per_step(self) -> int:
        """Windows per optimizer step, over all devices."""
        return self.config["tokens_per_step"] // self.config["sequence_length"]

    @property
    def learning_rate(self) -> float:
        """The learning rate as configured."""
        return float(self.config["optimizer"]["learning_rate"])

    @property
    def optimizer_name(self) -> str:
        """`muon`, or `adamw` for everything else: whose state the memory forecast counts."""
        is_muon = self.config["optimizer"]["_target_"].endswith(".muon")
        return "muon" if is_muon else "adamw"

    def is_finished(self) -> bool:
        """Whether the folder holds the finished run."""
        return (read_summary(self.folder) or {}).get("status") == "finished"


def plan_run(cfg: DictConfig, *, here: bool = True) -> Run:
    """Resolve and check the configuration of one run.

    Args:
        cfg: the composed configuration.
        here: whether it will run on this machine, whose devices then have to do.

    Raises:
        ValueError, TypeError, FileNotFoundError: what does not fit, and what to do.
    """
    job = _hydra_job()
    cfg = checked_config("train", cfg)
    cfg = with_initial_model(cfg, job.overrides or ())
    cfg = with_ids_of_data(cfg, job.overrides or ())
    if cfg.extend_from is not None:
        cfg = extended_config(cfg, job.overrides)
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # pyright: ignore
    parent, hashed = Path(config["output_dir"]) / config["experiment_name"], config_hash(config)
    folder = find_run_folder(parent, config, job.telling)
    config, changes = with_recorded(config, folder, job.overrides)
    cfg = OmegaConf.create(config)
    model = instantiate(cfg.model)
    check_windows(config, model)
    trainer: TrainerConfig = instantiate(cfg.trainer)
    _check_devices(config, trainer, here=here)
    check_targets(config)
    check_writable("output_dir", Path(config["output_dir"]))
    budget = TrainingBudget(
        tokens_per_step=config["tokens_per_step"],
        max_tokens=config["max_tokens"],
        max_steps=config["max_steps"],
        max_seconds=config["max_seconds"],
    )
    check_parts(config, model, budget)
    _check_compression(config, model, budget, trainer)
    _check_distillation(config, model, budget, trainer)
    return Run(
        config=config,
        overrides=job.overrides or (),
        folder=folder,
        identity=hashed,
        changes=changes,
        extension=None if cfg.extend_from is None else find_extension(cfg, budget),
        model=model,
        data=data_of_run(cfg),
        trainer=trainer,
        budget=budget,
        is_sweep=job.is_sweep,
        resume=job.is_sweep if config["resume"] is None else config["resume"],
    )


def check_run(cfg: DictConfig) -> Path:
    """Check one trial of a sweep before the first starts; the trial's run folder.

    Raises:
        ValueError, TypeError, FileNotFoundError: as `plan_run`, and a folder that may not be used.
    """
    run = plan_run(cfg, here=not _is_launched_by("slurm"))
    if not run.is_finished():
        check_may_start(run.folder, resume=run.resume)
    return run.folder


@dataclass(frozen=True)
class _Job:
    """What Hydra knows of the command."""

    overrides: tuple[str, ...] | None = None
    """Of the run; None: there is no command line, the configuration was made by a program."""
    telling: tuple[str, ...] = ()
    """Those that tell the run from the sweep's others; alone all of them."""
    is_sweep: bool = False


def _hydra_job() -> _Job:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from mobilellm.hydra_app.override_text import override_key
    from mobilellm.hydra_app.trial import as_typed, common_keys

    if not HydraConfig.initialized():
        return _Job()
    job = HydraConfig.get()
    overrides, common = tuple(as_typed(job.overrides.task)), common_keys(job)
    telling = tuple(o for o in overrides if override_key(o) not in common)
    return _Job(overrides, telling or overrides, job.mode == RunMode.MULTIRUN)


def _is_launched_by(name: str) -> bool:
    """Whether `hydra/launcher=local` or `slurm` runs this trial of a sweep in its own process."""
    from hydra.core.hydra_config import HydraConfig

    from mobilellm.hydra_app.sweep_launcher import sweep_launcher_of

    if not HydraConfig.initialized() or not _hydra_job().is_sweep:
        return False
    launcher = sweep_launcher_of(HydraConfig.get().launcher)
    return launcher is not None and launcher.choice == name


def _check_compression(
    config: dict[str, Any], model: ModelConfig, budget: TrainingBudget, trainer: "TrainerConfig"
) -> None:
    from mobilellm.pipeline.compression import make_compression

    compression = make_compression(config)
    if compression is None:
        return
    if trainer.strategy == "fsdp" and compression.starts(budget)[-1] > 0:
        # torch gives sharded parameters no optimizer state that begins empty.
        raise ValueError(
            "compression: trainer=fsdp cannot go on with a model that changes while it trains; use "
            "trainer=ddp, or one stage with first_start=0"
        )
    try:
        compression.check(model, budget)
    except ValueError as error:
        raise ValueError(f"compression: {error}") from error


def _check_distillation(
    config: dict[str, Any], model: ModelConfig, budget: TrainingBudget, trainer: "TrainerConfig"
) -> None:
    from mobilellm.pipeline.compression import make_compression
    from mobilellm.pipeline.distillation import make_distillation

    distillation = make_distillation(config)
    if distillation is None:
        return
    compression = make_compression(config)
    if trainer.strategy == "fsdp" and distillation.has_projections:
        raise ValueError(
            "distillation: projection=true trains weights beside the model, which trainer=fsdp "
            "does not share out; use trainer=ddp, or a student of the teacher's width"
        )
    compressed = None
    if compression is not None:
        compressed = compression.configs_after(model)
        if compression.starts(budget)[0] > 0 and not distillation.is_dense:
            compressed = [model, *compressed]  # which learns until the first stage
    try:
        distillation.check(
            model,
            sequence_length=config["sequence_length"],
            document_mask=config["data"]["document_mask"],
            compressed=compressed,
        )
    except ValueError as error:
        raise ValueError(f"distillation: {error}") from error


def _check_devices(config: dict[str, Any], trainer: "TrainerConfig", *, here: bool) -> None:
    samples = config["tokens_per_step"] // config["sequence_length"]
    micro = config["micro_batch_size"]
    # A login node has none of the cluster's devices, and is not asked for any.
    is_local_gpu = (
        here and _is_launched_by("local") and trainer.device_type == "cuda" and visible_gpus()
    )
    if here and not (is_local_gpu and trainer.devices == "auto"):
        world = trainer.world_size
    else:
        # Another process trains, which sees other devices: here, where a sweep is checked, all.
        world = trainer.num_nodes * (1 if trainer.devices == "auto" else int(trainer.devices))
    if samples % (world * (1 if micro == "auto" else micro)):
        raise ValueError(
            f"the {samples} windows of a step (tokens_per_step / sequence_length) cannot be shared "
            f"by {world} devices with micro_batch_size={micro}; use a multiple of "
            f"{world * (1 if micro == 'auto' else micro)} windows"
        )
