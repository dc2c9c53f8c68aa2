"""Runs a teacher once over the training data and stores its top-k probabilities.

1. Check the options before data or weights are read.
2. Prepare the data or open prepared data, and compare their tokenizer with the teacher's.
3. Write the missing shards under a lock; a finished store is reused.
"""

import hashlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from mobilellm.data import DataConfig, PreparedData, prepare_data
from mobilellm.data.document_tokens import document_tokens
from mobilellm.data.preparation.prepare import open_prepared
from mobilellm.data.resolved import data_name
from mobilellm.data.windows import Windows
from mobilellm.distillation.logit_store.manifest import MANIFEST, LogitInputs, check_method
from mobilellm.distillation.logit_store.packing import Packing
from mobilellm.distillation.logit_store.store import LogitStore
from mobilellm.distillation.logit_store.writer import LOCK, LogitWriter, check_folder
from mobilellm.distillation.teachers.opening import (
    check_data,
    check_fits,
    describe_teacher,
    open_teacher,
)
from mobilellm.distillation.teachers.teacher import ModelTeacher, check_teacher_options
from mobilellm.hydra_app.configuration import instantiate
from mobilellm.hydra_app.root_keys import checked_config
from mobilellm.paths import check_writable, user_path
from mobilellm.pipeline.model_hash import model_hash
from mobilellm.pipeline.teacher_pass import write_missing
from mobilellm.pipeline.tokens import data_for_weights
from mobilellm.training.trainer import TrainerConfig
from mobilellm.units import bytes_text

DEFAULT_DIR = Path("logits")
SHARD_BYTES = 1 << 24
# Every process that reads a store keeps all of its shards open.
MAX_SHARDS = 256


def prepare_logits(cfg: DictConfig, folder: str | Path) -> LogitStore:
    """Create the logit store that the configuration describes, or continue an unfinished one.

    Args:
        cfg: the composed configuration.
        folder: folder of the teacher: a saved model, a run, or a Hugging Face model.

    Returns:
        The finished store.

    Raises:
        ValueError, FileNotFoundError: an option, the teacher or the data are not valid; raised
            before the teacher runs.
        OSError: the disk is full; finished shards are kept.
    """
    folder = user_path(folder)
    cfg, device = check_options(cfg, folder)
    data, prepared = _data(cfg, folder)
    mask = data.document_mask
    vocab_size = describe_teacher(folder).structure.vocab_size
    check_data(
        folder,
        prepared,
        vocab_size=vocab_size,
        sequence_length=cfg.sequence_length,
        document_mask=mask,
    )
    windows = prepared.windows("train", cfg.sequence_length, document_mask=mask)
    opened = cast("ModelTeacher", open_teacher(folder))  # `check_options` refuses a logit store
    inputs = LogitInputs(
        data_hash=str(prepared.hashes["train"]),
        tokenizer_hash=prepared.hashes["tokenizer"],
        teacher_hash=model_hash(opened.model),
        vocab_size=vocab_size,
        document_mask=mask,
        num_windows=len(windows),
        windows_per_shard=cfg.windows_per_shard or 1,
        sequence_length=cfg.sequence_length,
        k=cfg.k,
        precision=cfg.precision,
        packing=cfg.packing,
        temperature=cfg.temperature,
        teacher_precision=cfg.teacher_precision,
        method=cfg.method,
        seed=_seed(cfg),
    )
    if cfg.windows_per_shard is None:
        inputs = replace(inputs, windows_per_shard=_windows_per_shard(inputs))
    out = Path(cfg.out) if cfg.out else DEFAULT_DIR / _name(data_name(data), inputs)
    teacher = ModelTeacher(
        opened.model,
        opened.structure,
        precision=cfg.teacher_precision,
        top_k=None if inputs.is_sampled else cfg.k,
    )
    store = _open_or_write(out, inputs, teacher, windows, device, cfg.micro_batch_size)
    _print_summary(store, data)
    return store


def check_options(cfg: DictConfig, folder: Path) -> tuple[DictConfig, str]:
    """Check all options, some against the teacher's configuration, before any data are read.

    Returns:
        The configuration with `~` expanded in its paths, and the device to run on.

    Raises:
        ValueError, FileNotFoundError: an option or the teacher is not valid.
    """
    cfg = checked_config("prepare_logits", cfg)
    facts = describe_teacher(folder)
    if facts.kind == "store":
        raise ValueError(f"TEACHER_DIR {folder} is a logit store; give the folder of a model")
    vocab_size = facts.structure.vocab_size
    Packing(vocab_size=vocab_size, k=cfg.k, precision=cfg.precision, packing=cfg.packing)
    check_method(cfg.method, _seed(cfg))
    check_teacher_options(cfg.teacher_precision, cfg.k, None, vocab_size)
    check_fits(facts, facts.structure, cfg.sequence_length)
    if cfg.out is not None:
        check_writable("out", Path(cfg.out))
    if cfg.num_threads is not None:
        torch.set_num_threads(cfg.num_threads)
    try:
        return cfg, TrainerConfig(accelerator=cfg.accelerator).device_type
    except ValueError as error:
        raise ValueError(str(error).removeprefix("trainer.")) from None


def _seed(cfg: DictConfig) -> int | None:
    """The seed of samples: 0 if none is given."""
    return 0 if cfg.method == "sampled" and cfg.seed is None else cfg.seed


def _data(cfg: DictConfig, folder: Path) -> tuple[DataConfig, PreparedData]:
    """The data, with the tokenizer of the teacher if no tokenizer is given.

    If the data are already prepared as configured, e.g. for training the teacher, they are reused.
    """
    facts = describe_teacher(folder)
    merged = DictConfig(OmegaConf.to_container(cfg))
    merged.model = {"vocab_size": facts.structure.vocab_size}
    with_own = data_for_weights(
        merged.data, folder, eos_token_ids=facts.eos_token_ids, name=f"TEACHER_DIR {folder}"
    )
    if with_own.tokenizer is None or merged.data.get("tokenizer") is not None:
        return with_own, prepare_data(with_own)
    around = {"add_bos": with_own.add_bos, "add_eos": with_own.add_eos}
    for data in (with_own, instantiate(merged.data, **around)):
        try:
            prepared = open_prepared(data)
        except ValueError:
            continue
        if prepared is not None:
            return data, prepared
    return with_own, prepare_data(with_own)


def _windows_per_shard(inputs: LogitInputs) -> int:
    return max(1, SHARD_BYTES // inputs.window_bytes, -(-inputs.num_windows // MAX_SHARDS))


def _name(data: str, inputs: LogitInputs) -> str:
    text = json.dumps(inputs.to_dict(), sort_keys=True, allow_nan=False)
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    kept = "sampled" if inputs.is_sampled else "top"
    return f"{data}-{inputs.sequence_length}-{kept}{inputs.k}-{digest}"


def _open_or_write(
    out: Path,
    inputs: LogitInputs,
    teacher: ModelTeacher,
    windows: Windows,
    device: str,
    micro_batch_size: int,
) -> LogitStore:
    """The store in `out`, which is opened, continued or created."""
    check_folder(out, inputs)
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log(f"waiting for another process that writes {out}")
        lock.acquire()
    try:
        if (out / MANIFEST).exists():
            check_folder(out, inputs)
            _log(f"{out} is finished already: nothing to do")
            return LogitStore(out)
        writer = LogitWriter(out, inputs)
        _check_space(writer)
        rate = write_missing(
            writer, teacher, windows, device=device, micro_batch_size=micro_batch_size
        )
        _log(f"{rate:,.0f} tokens/s")
        writer.finish()
        return LogitStore(out)
    except KeyboardInterrupt:
        _log(f"stopped; the finished shards in {out} are kept, and the same command continues")
        raise
    finally:
        lock.release()


def _check_space(writer: LogitWriter) -> None:
    """Log how many shards exist, and check that the disk has space for the missing ones."""
    inputs, missing = writer.inputs, writer.missing
    if len(missing) < inputs.num_shards:
        done = inputs.num_shards - len(missing)
        _log(f"{writer.folder} has {done} of {inputs.num_shards} shards: continuing from there")
    needed = sum(len(inputs.windows_of(shard)) for shard in missing) * inputs.window_bytes
    free = shutil.disk_usage(writer.folder).free
    if needed > free:
        raise ValueError(
            f"the store takes {bytes_text(needed)} and {bytes_text(free)} are free in "
            f"{writer.folder}; use a smaller k, precision=fixed8, packing=bits, or another out"
        )


def _print_summary(store: LogitStore, data: DataConfig) -> None:
    """Print a summary of the store and the overrides that a student's run needs."""
    manifest, mass = store.manifest, store.manifest["captured_mass"]
    overrides = [f"distillation.teacher={store.folder}"]
    overrides.append(f"sequence_length={store.sequence_length}")
    overrides += [f"data.tokenizer={data.tokenizer}"] if data.tokenizer else []
    if data.add_bos:
        # With a store, the rule of the teacher's folder is not known to the student's run.
        adds_eos = document_tokens(data).adds_eos
        overrides += ["data.add_bos=true", f"data.add_eos={str(adds_eos).lower()}"]
    if store.inputs.is_sampled:
        chosen = f"{store.inputs.k} sampled tokens per token, seed {store.inputs.seed}"
    else:
        chosen = (
            f"captured probability mass: {mass['mean']:.4f} on average, at most "
            f"{mass['percentile_5']:.3f} on 5 % of the tokens"
        )
    lines = (
        f"{store.folder}: {manifest['num_tokens']:,} tokens, {manifest['bytes_per_token']} bytes "
        f"per token, {bytes_text(manifest['bytes'])}",
        chosen,
        f"train on the same data with {' '.join(overrides)}",
    )
    sys.stdout.write("\n".join(lines) + "\n")


def _log(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
