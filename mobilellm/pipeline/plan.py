"""Plans a run: resolves its configuration, builds each part once, and checks that they fit.

No weights are read, and data only if the length of the run is given in `epochs`.
"""

from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mobilellm.callbacks.distillation import DENSE
from mobilellm.data import DataConfig
from mobilellm.hydra_app.configuration import instantiate, plain_config
from mobilellm.hydra_app.root_keys import checked_config
from mobilellm.paths import check_writable
from mobilellm.pipeline.checks import (
    check_devices,
    check_parts,
    check_targets,
    check_windows,
    num_devices,
)
from mobilellm.pipeline.epochs import with_epochs
from mobilellm.pipeline.extension import extended_config, extended_schedule, find_extension
from mobilellm.pipeline.gpu_options import check_gpu_options
from mobilellm.pipeline.hydra_job import hydra_job
from mobilellm.pipeline.identity import config_hash, find_run_folder
from mobilellm.pipeline.parametrization import build_parametrization, parametrized_model
from mobilellm.pipeline.parts import build_parts, build_schedule
from mobilellm.pipeline.recipe_rule import apply_recipe_rule
from mobilellm.pipeline.recorded import with_recorded
from mobilellm.pipeline.rule_record import with_earlier_choice
from mobilellm.pipeline.run import Run
from mobilellm.pipeline.token_budget import check_token_limits, with_token_limit
from mobilellm.pipeline.tokens import (
    data_of_run,
    with_document_tokens,
    with_ids_of_data,
    with_initial_model,
)
from mobilellm.training.trainer import TrainerConfig
from mobilellm.training.training_budget import TrainingBudget


def plan_run(cfg: DictConfig, *, on_this_machine: bool = True) -> Run:
    """Resolve the configuration of one run, build its parts, and check them.

    Args:
        cfg: the composed configuration.
        on_this_machine: whether the run trains on this machine, which must then have its devices.

    Raises:
        ValueError, TypeError, FileNotFoundError: the configuration is not valid; the message names
            the setting and the remedy.
    """
    job = hydra_job()
    overrides = job.overrides or ()
    cfg = with_initial_model(checked_config("train", cfg), overrides)
    first_data = _data(cfg)
    cfg = with_document_tokens(cfg, first_data)
    first_settings = _data_settings(cfg)
    cfg = with_ids_of_data(cfg, first_data, overrides)
    check_token_limits(plain_config(cfg), overrides)
    if cfg.extend_from is not None:
        cfg = extended_config(cfg, job.overrides)
    config = with_token_limit(plain_config(cfg))
    check_targets(config)
    config = with_epochs(config, overrides, partial(_data, OmegaConf.create(config)))
    cfg = OmegaConf.create(config)
    parametrization = build_parametrization(config)
    model = parametrized_model(instantiate(cfg.model), parametrization, config["init_from"])
    trainer: TrainerConfig = instantiate(cfg.trainer)
    devices = partial(num_devices, trainer, job.launcher, on_this_machine=on_this_machine)
    config, choice = apply_recipe_rule(config, model, parametrization, devices)
    parent = Path(config["output_dir"]) / config["experiment_name"]
    config, choice = with_earlier_choice(config, choice, parent)
    identity = config_hash(config)
    folder = find_run_folder(parent, config, job.distinguishing)
    config, changes = with_recorded(config, folder, job.overrides)
    cfg = OmegaConf.create(config)
    if changes:
        trainer = instantiate(cfg.trainer)
    check_windows(config, model)
    check_devices(config, trainer, job.launcher, on_this_machine=on_this_machine)
    check_writable("output_dir", Path(config["output_dir"]))
    budget = TrainingBudget(
        tokens_per_step=config["tokens_per_step"],
        max_tokens=config["max_tokens"],
        max_steps=config["max_steps"],
        max_seconds=config["max_seconds"],
    )
    schedule = build_schedule(config["schedule"])
    extension = None if cfg.extend_from is None else find_extension(cfg, budget, schedule)
    run = Run(
        config=config,
        overrides=overrides,
        folder=folder,
        identity=identity,
        model=model,
        # The settings of an extended or resumed run may have replaced some of the data's.
        data=first_data if _data_settings(cfg) == first_settings else _data(cfg),
        trainer=trainer,
        budget=budget,
        parts=build_parts(config, folder, budget, extended_schedule(schedule, extension, budget)),
        resume=job.is_sweep if config["resume"] is None else config["resume"],
        is_sweep=job.is_sweep,
        extension=extension,
        changes=changes,
        rule_choice=choice,
    )
    check_parts(run)
    check_gpu_options(run, devices(), on_this_machine=on_this_machine)
    return run


def _data(cfg: DictConfig) -> DataConfig:
    return data_of_run(cfg, _teacher(cfg))


def _teacher(cfg: DictConfig) -> str | None:
    """The folder of the teacher; None if there is none, or if it is the student itself.

    Raises:
        ValueError: the setting is not a path.
    """
    teacher = (cfg.distillation or {}).get("teacher")
    if teacher is not None and not isinstance(teacher, str):
        raise ValueError(
            f"distillation.teacher={teacher} must be the folder of a model, of a run or of a logit "
            f"store, or {DENSE}"
        )
    return None if teacher == DENSE else teacher


def _data_settings(cfg: DictConfig) -> tuple[object, ...]:
    """All settings that the data of a run depend on."""
    return plain_config(cfg.data), cfg.init_from, _teacher(cfg)
