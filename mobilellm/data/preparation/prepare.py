"""Prepare a corpus once: convert its text to a data folder.

1. Describe the inputs. A finished folder is reused for the same inputs and refused for others.
2. Under a lock, read the corpus to find errors, sizes and a sample of text.
3. Train the tokenizer, or use the given one.
4. Tokenize documents in parallel into the shards of both splits.
5. Measure the baselines, and write the manifest, which marks the folder as finished.

All files are written atomically. If a preparation was interrupted, the next one with the same
inputs keeps the tokenizer and all complete shards; with other inputs it starts again.
"""

import time
from pathlib import Path

from mobilellm.data.config import DataConfig
from mobilellm.data.manifest import (
    INPUTS,
    MANIFEST,
    Record,
    read_inputs,
    read_manifest,
    write_json,
)
from mobilellm.data.preparation.building import build_contents
from mobilellm.data.preparation.conversation_building import build_conversations
from mobilellm.data.preparation.inputs import describe_inputs, differences
from mobilellm.data.preparation.progress_bar import ProgressBar
from mobilellm.data.preparation.prompted_building import build_prompted
from mobilellm.data.prepared import TOKEN_BYTES, PreparedData
from mobilellm.data.prepared_conversations import PreparedConversations, trained_folder
from mobilellm.data.prepared_preferences import PreparedPreferences
from mobilellm.data.prepared_prompts import PreparedPrompts
from mobilellm.data.resolved import ResolvedData, resolve_data
from mobilellm.data.shards import SHARD_TOKENS
from mobilellm.data.source import SPLITS
from mobilellm.data.sources.conversations import ConversationConfig
from mobilellm.data.sources.hub_access import ensure_cache
from mobilellm.data.sources.preferences import PreferenceConfig
from mobilellm.data.sources.rationale_data import RationaleConfig
from mobilellm.data.tokenizers import OWN_FILES
from mobilellm.files import is_temporary, remove_temporary_files
from mobilellm.paths import check_writable

LOCK = ".lock"


def open_prepared(config: DataConfig) -> PreparedData | None:
    """The finished data of a configuration; None if they are not prepared.

    Raises:
        ValueError: the folder was prepared from different inputs.
        FileNotFoundError: a path of the configuration does not exist.
    """
    return _open_prepared(resolve_data(config))


def _open_prepared(data: ResolvedData) -> PreparedData | None:
    manifest = read_manifest(data.folder)
    if manifest is None:
        return None
    changes = differences(manifest["inputs"], describe_inputs(data, manifest["inputs"]))
    if changes:
        raise ValueError(
            f"{data.folder} was prepared from different inputs: {'; '.join(changes[:3])}; choose "
            "another data.dir (or data.name), or remove that folder"
        )
    return _open(data)


def _open(data: ResolvedData) -> PreparedData:
    if isinstance(data.config, RationaleConfig):
        return PreparedPrompts(data.folder, data.config.tasks)
    if isinstance(data.config, PreferenceConfig):
        return PreparedPreferences(data.folder, data.config.packing)
    if isinstance(data.config, ConversationConfig):
        return PreparedConversations(data.folder, data.config.packing, data.config.too_long)
    return PreparedData(data.folder)


def _build(data: ResolvedData, bar: ProgressBar, shard_tokens: int) -> Record:
    """Write tokenizer and shards, and return the entries of the manifest."""
    if isinstance(data.config, RationaleConfig):
        return build_prompted(data, data.config, bar, shard_tokens=shard_tokens)
    if isinstance(data.config, ConversationConfig):
        return build_conversations(data, data.config, bar, shard_tokens=shard_tokens)
    return build_contents(data, bar, shard_tokens=shard_tokens)


def prepare_data(
    config: DataConfig, *, progress: bool = True, shard_tokens: int = SHARD_TOKENS
) -> PreparedData:
    """Prepare data, or reuse what was prepared from the same inputs.

    If several processes need the same data, one prepares them and the others wait.

    Args:
        config: what to prepare and where.
        progress: whether to show progress bars on stderr.
        shard_tokens: tokens per shard file; complete shards are kept after an interruption.

    Raises:
        ValueError: the text has errors, the tokenizer does not fit, or the folder was prepared from
            other inputs.
        FileNotFoundError: a path does not exist.
        OSError: the disk is full; finished shards are kept, and the next call continues from them.
    """
    # A tokenizer that does not fit is refused before the corpus is read, which may take hours.
    data = resolve_data(config)
    prepared = _open_prepared(data)
    if prepared is not None:
        return prepared
    from filelock import FileLock, Timeout

    # Missing paths are reported before the folder is created.
    describe_inputs(data, read_inputs(data.folder))
    bar = ProgressBar(progress)
    _check_folder(data.folder)
    data.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(data.folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        bar.show_message(f"waiting for another process that prepares {data.folder}")
        lock.acquire()
    try:
        return _open_prepared(data) or _prepare(data, bar, shard_tokens)
    except KeyboardInterrupt:
        bar.show_message(
            f"stopped; {data.folder} keeps the finished files, and the next call continues"
        )
        raise
    finally:
        lock.release()


def _prepare(data: ResolvedData, bar: ProgressBar, shard_tokens: int) -> PreparedData:
    started = time.perf_counter()
    if not data.config.is_local:
        ensure_cache(Path(data.config.prepared_dir))
    inputs = _begin(data)
    contents = _build(data, bar, shard_tokens)
    write_json(
        data.folder / MANIFEST,
        {
            "inputs": inputs,
            "name": data.name,
            **contents,
            "seconds": round(time.perf_counter() - started, 3),
        },
    )
    return _open(data)


def _begin(data: ResolvedData) -> Record:
    """Record the inputs of the folder; remove unfinished files made from other inputs."""
    known = read_inputs(data.folder)
    inputs = describe_inputs(data, known)
    for folder in (data.folder, *_shard_folders(data.folder)):
        remove_temporary_files(folder)
    if known is None or differences(known, inputs):
        for path in _own_files(data.folder):
            path.unlink(missing_ok=True)
    write_json(data.folder / INPUTS, inputs)
    return inputs


def _check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written, or has files that are not prepared data.

    Such files could be overwritten.
    """
    check_writable("data.dir", folder)
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
        for shards in _shard_folders(folder)
        for pattern in ("*.tokens", "*.documents")
        for path in shards.glob(pattern)
    ]
    return [*(folder / name for name in (*OWN_FILES, TOKEN_BYTES)), *shards]


def _shard_folders(folder: Path) -> list[Path]:
    """All folders of shards that a data folder may have."""
    return [path for split in SPLITS for path in (folder / split, trained_folder(folder, split))]
