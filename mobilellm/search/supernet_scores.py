"""Scores of many shapes: the validation losses of their slices of a supernet, kept in a file.

Each score is written as soon as it is known, so that an interrupted ranking continues.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobilellm.evaluation.validation import Batch, sum_losses
from mobilellm.models import ModelConfig
from mobilellm.search.supernet import Supernet
from mobilellm.search.supernet_space import SupernetSpace


@dataclass(frozen=True, kw_only=True)
class Score:
    """The score of one shape."""

    shape: ModelConfig
    loss: float
    """Validation loss of the slice in nats per token."""
    seconds: float
    """Time of the measurement."""


class ScoreFile:
    """A file of scores, one JSON object per line; the first one says what they were made from.

    Args:
        path: the file, which need not exist.
        made_from: all that the scores depend on, as plain data.

    Raises:
        ValueError: the file has scores of something else; the message names the differences.
    """

    def __init__(self, path: Path, made_from: Mapping[str, Any]) -> None:
        """Read the scores that the file has."""
        self.path = path
        self.known: dict[ModelConfig, Score] = {}
        lines = _complete_lines(path)
        if not lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                json.dumps({"made_from": made_from}, allow_nan=False) + "\n", encoding="utf-8"
            )
            return
        before = lines[0].get("made_from", {})
        differing = [key for key, value in made_from.items() if before.get(key) != value]
        if differing:
            raise ValueError(
                f"{path} has scores that were made from something else ({', '.join(differing)} "
                "differ); give a new folder, or the same supernet and validation text"
            )
        for line in lines[1:]:
            shape = ModelConfig.from_dict(line["model"])
            self.known[shape] = Score(shape=shape, loss=line["loss"], seconds=line["seconds"])

    def add(self, score: Score) -> None:
        """Append a score to the file."""
        line = {"model": score.shape.to_dict(), "loss": score.loss, "seconds": score.seconds}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        self.known[score.shape] = score


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of the file; one that was not written completely is removed from it."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def score_shapes(
    supernet: Supernet,
    shapes: Sequence[ModelConfig],
    batches: Sequence[Batch],
    file: ScoreFile,
    tell: Callable[[int, Score], None],
) -> list[Score]:
    """Measure the validation loss of each shape's slice that the file does not have.

    Args:
        supernet: the trained supernet, on the device of the measurement.
        shapes: the shapes, without duplicates.
        batches: the validation text, the same for all shapes.
        file: known scores; new ones are appended.
        tell: is called after each new score with the number of shapes done.

    Returns:
        The scores in the order of the shapes.
    """
    device = next(supernet.model.parameters()).device
    for done, shape in enumerate(shapes, start=1):
        if shape not in file.known:
            start = time.monotonic()
            loss = sum_losses(supernet.sub_network(shape), batches, device=device).loss
            score = Score(shape=shape, loss=loss, seconds=time.monotonic() - start)
            file.add(score)
            tell(done, score)
    return [file.known[shape] for shape in shapes]


def shapes_to_rank(
    space: SupernetSpace,
    supernet: ModelConfig,
    *,
    number: int,
    included: Sequence[ModelConfig],
    seed: int,
) -> list[ModelConfig]:
    """Different shapes of the space: all of them, or random ones.

    Args:
        space: the shapes between which the supernet was trained.
        supernet: its configuration.
        number: the most shapes, unless `included` has more.
        included: shapes of the space that are among them in any case.
        seed: of the random choice.
    """
    if space.num_shapes <= number:
        return list(space.shapes(supernet))
    generator = np.random.default_rng(seed)
    chosen = dict.fromkeys([*included, supernet, space.smallest(supernet)])
    while len(chosen) < number:
        chosen[space.draw(supernet, generator)] = None
    return list(chosen)
