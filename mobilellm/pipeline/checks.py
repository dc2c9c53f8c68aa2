"""Checks of settings and parts that depend on each other, before any data is read."""

from collections.abc import Mapping

import torch

from mobilellm.accounting.parameters import matrix_costs
from mobilellm.callbacks.compression import CompressionCallback
from mobilellm.callbacks.distillation import DistillationCallback
from mobilellm.callbacks.supernet import SupernetCallback
from mobilellm.command_names import command_for
from mobilellm.data.sources.preferences import PreferenceConfig
from mobilellm.launchers.local.gpus import visible_gpus
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.initialization import check_initialization
from mobilellm.pipeline.adapted_run import check_adapter
from mobilellm.pipeline.hydra_job import check_effect, slurm_processes_per_node
from mobilellm.pipeline.identity import PROBE
from mobilellm.pipeline.parts import named_errors
from mobilellm.pipeline.run import Run
from mobilellm.run_settings import Config
from mobilellm.training.trainer import TrainerConfig


def check_windows(config: Config, model: ModelConfig) -> None:
    """Check that windows, steps and micro-batches divide each other and fit the model.

    Raises:
        ValueError: they do not; the message gives the nearest valid numbers.
    """
    length, per_step = config["sequence_length"], config["tokens_per_step"]
    if length > model.max_position_embeddings:
        raise ValueError(
            f"sequence_length={length} must be between 1 and the model's context, "
            f"max_position_embeddings={model.max_position_embeddings}; use a shorter one, or "
            "raise model.max_position_embeddings"
        )
    if per_step < length or per_step % length:
        below = max(1, per_step // length) * length
        raise ValueError(
            f"tokens_per_step={per_step} must be a multiple of sequence_length={length}; use "
            f"{below} or {below + length}"
        )
    validation = config["validation_tokens"]
    if validation is not None and validation < length:
        raise ValueError(
            f"validation_tokens={validation:g} must be at least one window, sequence_length="
            f"{length}; use more, or null for the whole split"
        )
    micro, samples = config["micro_batch_size"], per_step // length
    is_chosen = micro in ("auto", "measure")
    if not is_chosen and (not isinstance(micro, int) or micro < 1 or samples % micro):
        divisors = [n for n in range(1, min(samples, 4096) + 1) if samples % n == 0]
        raise ValueError(
            f"micro_batch_size={micro} must be auto, measure, or divide the {samples} windows of a "
            f"step (tokens_per_step / sequence_length); use one of {divisors}, or larger steps"
        )


def check_devices(
    config: Config, trainer: TrainerConfig, launcher: str | None, *, on_this_machine: bool
) -> None:
    """Check that the windows of a step can be divided evenly among the devices.

    Args:
        config: the resolved configuration.
        trainer: settings of the run's trainer.
        launcher: see `HydraJob.launcher`.
        on_this_machine: whether the run trains on this machine; if not, for example on the login
            node of a cluster, the devices of this machine are not counted.

    Raises:
        ValueError: they cannot; the message gives the number of windows that is required.
    """
    samples = config["tokens_per_step"] // config["sequence_length"]
    micro = config["micro_batch_size"]
    if micro in ("auto", "measure"):
        micro = 1
    world = num_devices(trainer, launcher, on_this_machine=on_this_machine)
    if samples % (world * micro):
        raise ValueError(
            f"the {samples} windows of a step (tokens_per_step / sequence_length) cannot be shared "
            f"by {world} devices with micro_batch_size={config['micro_batch_size']}; use a "
            f"multiple of {world * micro} windows"
        )


def num_devices(trainer: TrainerConfig, launcher: str | None, *, on_this_machine: bool) -> int:
    """Number of devices of a run, over all nodes; the arguments are those of `check_devices`."""
    # The local launcher gives each trial one of the GPUs that are visible to the sweep.
    gets_one_gpu = (
        launcher == "local"
        and on_this_machine
        and trainer.device_type == "cuda"
        and trainer.devices == "auto"
        and bool(visible_gpus())
    )
    if on_this_machine and not gets_one_gpu:
        return trainer.world_size
    if trainer.devices != "auto":
        return trainer.num_nodes * int(trainer.devices)
    is_submitted = launcher == "slurm" and not on_this_machine
    return trainer.num_nodes * (slurm_processes_per_node() if is_submitted else 1)


def check_targets(config: Config) -> None:
    """Check that the optional parts of the configuration name the class to build (`_target_`).

    Raises:
        ValueError: a part has settings but no `_target_`.
    """
    for group in ("parametrization", "compression", "distillation", "adapter"):
        _check_target(group, config.get(group) or None, f"choose {group}=…")
    for group in ("callbacks", "logger"):
        for name, node in config[group].items():
            _check_target(f"{group}.{name}", node, f"choose {group}=… with {name} in it")


def _check_target(key: str, node: object, remedy: str) -> None:
    if node is None:
        return
    if not isinstance(node, Mapping):
        raise ValueError(f"{key}={node!r} must be null or settings with {key}._target_")
    if "_target_" not in node:
        raise ValueError(
            f"{key} has settings ({', '.join(map(str, node))}) but no _target_, which names the "
            f"class to build; {remedy}, or leave the settings out"
        )


def check_parts(run: Run) -> None:
    """Check parts that depend on each other or on the model, without allocating weights.

    Raises:
        ValueError: parts do not fit together; the message begins with the key of the part.
    """
    _check_effects(run)
    if run.parts.adapter is None:
        check_trained(run.model)
    else:
        check_adapter(run)
    with named_errors("initialization"):
        check_initialization(**run.config["initialization"])
    with named_errors("optimizer", run.config["optimizer"]["_target_"]), torch.device("meta"):
        run.parts.optimizer(MobileLLM(run.trained_model))
    if run.optimizer_name == "adamw8bit" and run.trainer.strategy == "fsdp":
        raise ValueError(
            "optimizer=adamw8bit cannot be combined with trainer=fsdp, which divides the moments "
            "among the devices; use optimizer=adamw, or trainer=ddp"
        )
    steps, total = run.config["schedule"].get("warmup_steps"), run.budget.total_steps
    if steps is not None and total is not None and steps > total:
        raise ValueError(
            f"schedule.warmup_steps={steps} must be at most the run's {total} steps, or the "
            "learning rate never reaches its peak; use fewer, or warmup_steps=null with "
            "warmup_fraction"
        )
    if run.parts.compression is not None:
        _check_compression(run, run.parts.compression)
    _check_pairs(run)
    if run.parts.distillation is not None:
        _check_distillation(run, run.parts.distillation)
    for callback in run.parts.callbacks:
        if isinstance(callback, SupernetCallback):
            with named_errors("distillation"):
                callback.check(
                    run.model,
                    strategy=run.trainer.strategy,
                    is_compressed=run.parts.compression is not None,
                )


def _check_effects(run: Run) -> None:
    """Check that no setting of the command line is for something that the run does not do.

    Raises:
        ValueError: one is; a run with `extend_from` may repeat the settings of the run there.
    """
    if run.extension is not None:
        return
    if run.config["init_from"] is not None:
        reason = f"with init_from={run.config['init_from']}, which gives the initial weights"
        check_effect(run.overrides, ["initialization"], reason)
    if not run.config[PROBE]:
        settings = [key for key in run.config if key.startswith(f"{PROBE}_")]
        check_effect(run.overrides, settings, f"without {PROBE}=true")


def check_trained(model: ModelConfig) -> None:
    """Check that training can change all matrices of a model.

    Raises:
        ValueError: matrices are stored as packed codes, or have adapters.
    """
    packed = [name for name, cost in matrix_costs(model).items() if cost.packed_bytes is not None]
    if packed:
        raise ValueError(
            f"{len(packed)} matrices of the model are quantized, e.g. {packed[0]}, and training "
            "does not change their packed weights; start from the model with floats that it was "
            "made from, with compression=qat to train it for quantization, or train an adapter "
            "beside them with adapter=lora"
        )
    adapted = [name for name, shape in model.layer_shapes.items() if shape.trains_alone]
    if adapted:
        raise ValueError(
            f"{len(adapted)} matrices of the model have an adapter, e.g. {adapted[0]}, and "
            "training all weights would change the matrices below it; start from a model without "
            "adapters"
        )


def _check_compression(run: Run, compression: CompressionCallback) -> None:
    if compression.staged.recipe.freezes_weights:
        raise ValueError(
            "compression: this method packs weights, which training does not change; quantize the "
            f"model after training ({command_for('compress')} RUN), or train it for quantization "
            "with compression=qat"
        )
    if run.trainer.strategy == "fsdp" and compression.starts(run.budget)[-1] > 0:
        # torch cannot add new parameters, which have no state, to a sharded optimizer.
        raise ValueError(
            "compression: trainer=fsdp does not support compression during training; use "
            "trainer=ddp, or one stage with first_start=0"
        )
    with named_errors("compression"):
        compression.check(run.model, run.budget)


def _check_pairs(run: Run) -> None:
    """Check that pairs of answers have a loss on pairs, and the other way round."""
    distillation = run.parts.distillation
    compares_pairs = distillation is not None and distillation.compares_pairs
    if compares_pairs != isinstance(run.data, PreferenceConfig):
        raise ValueError(
            "data=preferences and distillation=dpo need each other: use both, or for single "
            "answers data=conversations without it"
        )


def _check_distillation(run: Run, distillation: DistillationCallback) -> None:
    if run.trainer.strategy == "fsdp" and distillation.has_projections:
        raise ValueError(
            "distillation: projection=true trains weights beside the model, which trainer=fsdp "
            "does not shard; use trainer=ddp, or a student of the teacher's width"
        )
    compression, compressed = run.parts.compression, None
    if compression is not None:
        compressed = compression.configs_after(run.model)
        if compression.starts(run.budget)[0] > 0 and not distillation.is_dense:
            # Until the first stage, the model is trained as configured.
            compressed = [run.model, *compressed]
    with named_errors("distillation"):
        distillation.check(
            run.model,
            sequence_length=run.config["sequence_length"],
            document_mask=run.data.document_mask,
            compressed=compressed,
        )
