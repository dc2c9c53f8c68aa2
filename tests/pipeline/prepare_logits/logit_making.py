"""What the tests of scripts/prepare_logits.py share."""

from pathlib import Path

from mobilellm.distillation.logit_store.store import LogitStore
from mobilellm.hydra_app.configuration import compose
from mobilellm.pipeline.prepare_logits import prepare_logits

SEQUENCE = 32


def make_store(teacher: Path, options: list[str], *more: str) -> LogitStore:
    """Run the command in this process."""
    return prepare_logits(compose("prepare_logits", [*options, *more]), teacher)


def files_of(folder: Path) -> dict[str, bytes]:
    """What a store consists of, by name; the lock is no part of it."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
