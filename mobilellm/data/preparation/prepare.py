"""From a corpus to a data folder, once.

1. Describe the inputs. A finished folder is reused for the same inputs and refused for others.
2. Under a lock, survey the corpus: faults, sizes, a sample of text.
3. Train the tokenizer, or take the one given.
4. Tokenize documents in parallel into the shards of both splits.
5. Measure the baselines, and write the manifest, which makes the folder a finished one.

Each file appears whole. Work that was cut short is taken up again for the same inputs: the
tokenizer and all complete shards stay; for others it is started afresh.
"""

import time
from pathlib import Path

from mobilellm.data.config import DataConfig
from mobilellm.data.end_of_text import find_eos_token_id
from mobilellm.data.manifest import (
    INPUTS,
    MANIFEST,
    Record,
    describe_inputs,
    differences,
    read_inputs,
    read_manifest,
    write_json,
)
from mobilellm.data.preparation.progress_bar import ProgressBar
from mobilellm.data.prepared import TOKEN_BYTES, TOKENIZER, PreparedData
from mobilellm.data.shards import SHARD_TOKENS
from mobilellm.data.source import SPLITS
from mobilellm.data.sources.hub_access import ensure_cache
from mobilellm.files import is_temporary, remove_temporary_files

LOCK = ".lock"


def open_prepared(config: DataConfig) -> PreparedData | None:
    """The finished data of a configuration, or None where it is not prepared.

    Raises:
        ValueError: the folder was prepared from other input.
        FileNotFoundError: a path of the configuration does not exist.
    """
    manifest = read_manifest(config.folder)
    if manifest is None:
        return None
    changes = differences(manifest["inputs"], describe_inputs(config, manifest["inputs"]))
    if changes:
        raise ValueError(
            f"{config.folder} was prepared from other input: {'; '.join(changes[:3])}; choose "
            "another data.dir (or data.name), or remove that folder"
        )
    return config.open()


def prepare_data(
    config: DataConfig, *, progress: bool = True, shard_tokens: int = SHARD_TOKENS
) -> PreparedData:
    """Prepare data, or reuse what was prepared from the same inputs.

    Several processes may ask for the same data: one prepares it, the others wait.

    Args:
        config: what to prepare and where.
        progress: show bars on stderr.
        shard_tokens: tokens per shard file; what was written before an interruption is of use as
            far as whole shards go.

    Raises:
        ValueError: faulty text, a tokenizer that does not fit, a folder prepared from other input.
        FileNotFoundError: a path that does not exist.
        OSError: the disk is full; finished shards stay, and the next call goes on from them.
    """
    # A tokenizer that does not fit is found before hours of reading.
    find_eos_token_id(config)
    prepared = open_prepared(config)
    if prepared is not None:
        return prepared
    from filelock import FileLock, Timeout

    # A path that does not exist is found before a folder is made.
    describe_inputs(config, read_inputs(config.folder))
    bar = ProgressBar(progress)
    _check_folder(config.folder)
    config.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(config.folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        bar.say(f"waiting for another process that prepares {config.folder}")
        lock.acquire()
    try:
        return open_prepared(config) or _prepare(config, bar, shard_tokens)
    except KeyboardInterrupt:
        bar.say(f"stopped; {config.folder} keeps what is finished, and the next call goes on")
        raise
    finally:
        lock.release()


def _prepare(config: DataConfig, bar: ProgressBar, shard_tokens: int) -> PreparedData:
    started = time.perf_counter()
    if not config.is_local:
        ensure_cache(Path(config.prepared_dir))
    inputs = _begin(config)
    contents = config.build(bar, shard_tokens=shard_tokens)
    write_json(
        config.folder / MANIFEST,
        {
            "inputs": inputs,
            "name": config.name,
            **contents,
            "seconds": round(time.perf_counter() - started, 3),
        },
    )
    return config.open()


def _begin(config: DataConfig) -> Record:
    """Record what the folder is made from; drop what was begun with other inputs."""
    known = read_inputs(config.folder)
    inputs = describe_inputs(config, known)
    for folder in (config.folder, *(config.folder / split for split in SPLITS)):
        remove_temporary_files(folder)
    if known is None or differences(known, inputs):
        for path in _own_files(config.folder):
            path.unlink(missing_ok=True)
    write_json(config.folder / INPUTS, inputs)
    return inputs


def _check_folder(folder: Path) -> None:
    """Refuse a folder with files of other origin, which would be overwritten."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"data.dir={folder} is a file; choose a folder")
    if not folder.is_dir() or (folder / INPUTS).exists():
        return
    names = [path.name for path in folder.iterdir()]
    others = [name for name in names if name != LOCK and not is_temporary(name, INPUTS)]
    if others:
        raise ValueError(
            f"data.dir={folder} holds other files, such as {min(others)}; choose a new or empty "
            "folder"
        )


def _own_files(folder: Path) -> list[Path]:
    shards = [
        path
        for split in SPLITS
        for pattern in ("*.tokens", "*.documents")
        for path in (folder / split).glob(pattern)
    ]
    return [folder / TOKENIZER, folder / TOKEN_BYTES, *shards]
