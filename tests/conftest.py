"""Shared by all tests: a small real corpus, and a configuration of a tiny run on it."""

import gc
import os
import signal
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from config_cache import keep_read_files
from tensor_types import check_tensors_of

# The shapes in the types of these packages are checked whenever a test calls a function of theirs.
check_tensors_of(
    [
        "mobilellm.layers",
        # Of the models, what torch.compile does not compile: it cannot trace the hook.
        "mobilellm.models.attention_mask",
        "mobilellm.models.cache",
        "mobilellm.models.decoding",
        "mobilellm.models.generation",
        "mobilellm.models.mobilellm",
        "mobilellm.compression.algorithms",
        "mobilellm.losses",
        "mobilellm.distillation.losses",
    ]
)

MODULES = ("argparse", "ast", "calendar", "csv", "datetime", "decimal", "difflib", "doctest",
           "enum", "fractions", "heapq", "inspect", "locale", "mailbox", "optparse", "pickle",
           "statistics", "string", "tarfile", "textwrap", "threading", "typing")  # fmt: skip

keep_read_files()

# Some tests fork. The threads of a parallel computation before that do not exist in the child,
# whose next one would wait for them for ever.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# Children inherit ignored signals: a shell ignores SIGINT for commands in the background, and nohup
# ignores SIGHUP. The tests of signals need both.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) == signal.SIG_IGN:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect no garbage while tests are collected, nor search their objects for it afterwards."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of real text files, 1 MB: modules of the standard library."""
    folder = tmp_path_factory.mktemp("corpus")
    library = Path(sysconfig.get_path("stdlib"))
    for name in MODULES:
        source = library / f"{name}.py"
        if source.exists():
            (folder / f"{name}.txt").write_text(
                source.read_text(encoding="utf-8"), encoding="utf-8"
            )
    return folder


@pytest.fixture(scope="session")
def saved_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with an untrained model and its tokenizer of 64 tokens; only read it."""
    # Most tests need neither torch nor SentencePiece.
    from tiny_tokenizers import save_run

    return save_run(tmp_path_factory.mktemp("saved_run"))


@pytest.fixture(scope="session")
def prepared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all tests keep token shards, so that they are made once."""
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture
def tiny_overrides(corpus: Path, prepared_dir: Path, tmp_path: Path) -> list[str]:
    """Overrides for a run of seconds: a few thousand parameters, twelve steps."""
    return _tiny_overrides(corpus, prepared_dir, tmp_path)


@pytest.fixture(scope="session")
def tiny_run_folder(
    corpus: Path, prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a finished tiny run; only read it."""
    from mobilellm.hydra_app.configuration import compose
    from mobilellm.pipeline.train import train

    folder = tmp_path_factory.mktemp("tiny_run")
    train(compose("train", [*_tiny_overrides(corpus, prepared_dir, folder), "seed=3"]))
    [summary] = (folder / "outputs").glob("*/*/summary.json")
    return summary.parent


def _tiny_overrides(corpus: Path, prepared_dir: Path, folder: Path) -> list[str]:
    return [
        "model=debug", "data=text", f"data.train={corpus}", "data.held_out=0.2",
        f"prepared_dir={prepared_dir}", f"output_dir={folder}/outputs",
        "sequence_length=32", "tokens_per_step=128", "optimizer.learning_rate=2e-3",
        "max_tokens=1536",
        "validation_interval_tokens=512", "validation_tokens=512", "trainer=cpu",
        "trainer.num_threads=1", "callbacks.progress=null", "callbacks.run_summary=null",
    ]  # fmt: skip


@pytest.fixture
def tiny_run(tiny_overrides: list[str]) -> Callable[..., dict[str, Any]]:
    """Train the tiny run with further overrides, in this process; the summary."""

    def run(*overrides: str) -> dict[str, Any]:
        from mobilellm.hydra_app.configuration import compose
        from mobilellm.pipeline.train import train

        return train(compose("train", [*tiny_overrides, *overrides]))

    return run


def sandwich(num_blocks: int, block_repeats: int) -> tuple[int, ...]:
    """The ends once and the blocks between them again and again: 0 1 2 1 2 3."""
    middle = tuple(range(1, num_blocks - 1)) * block_repeats
    return (0, *middle, num_blocks - 1) if num_blocks > 1 else (0,)


def last_first(num_blocks: int, block_repeats: int) -> tuple[int, ...]:
    """Backwards, and then every other block again: 3 2 1 0 0 2."""
    again = tuple(range(0, num_blocks, 2)) * (block_repeats - 1)
    return (*reversed(range(num_blocks)), *again)


@pytest.fixture
def uneven_schemes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sharing schemes as a user may add them: blocks run unequally often and begin anywhere."""
    from mobilellm.models.sharing import SHARING_SCHEMES

    for scheme in (sandwich, last_first):
        monkeypatch.setitem(SHARING_SCHEMES, scheme.__name__, scheme)  # pyright: ignore


@pytest.fixture(autouse=True)
def no_hydra_job() -> Iterator[None]:
    """What one test told Hydra about its job is not the next one's."""
    from hydra.core.hydra_config import HydraConfig

    before = HydraConfig.instance().cfg
    yield
    HydraConfig.instance().cfg = before
