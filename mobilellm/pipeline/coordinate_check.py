"""The coordinate check of a configuration: trains, prints the sizes, and writes data and plot."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich import box
from rich.table import Table
from torch import Tensor

from mobilellm.cli.console import make_console
from mobilellm.data.sources.stdlib import StandardLibrary
from mobilellm.files import write_text_atomically
from mobilellm.hydra_app.configuration import instantiate
from mobilellm.hydra_app.root_keys import checked_config
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.initialization import check_initialization
from mobilellm.optim.parametrization import Parametrization
from mobilellm.paths import check_unused, user_path
from mobilellm.pipeline.parametrization import build_parametrization
from mobilellm.pipeline.parts import build_optimizer, named_errors
from mobilellm.report.coordinate_plot import coordinate_figure
from mobilellm.search.coordinate_check import (
    QUANTITIES,
    MakeOptimizer,
    Measurement,
    Recipe,
    Spread,
    byte_batches,
    measure_shape,
    spreads,
)
from mobilellm.strict_json import to_json

logger = logging.getLogger(__name__)

JSON = "coordinate_check.json"
PLOT = "coordinate_check.png"
STANDARD = "standard"
TEXT_BYTES = 200_000
"""Bytes of the text that are used."""
BYTE_VALUES = 256
SHAPED_BY = {"num_blocks": ("depth", "depths"), "hidden_size": ("width", "widths")}
"""Keys of the model and the root keys that set them."""
MAX_BATCHES = 64
"""After so many steps, batches are used again."""


@dataclass(frozen=True, kw_only=True)
class CheckPlan:
    """What a coordinate check measures; nothing is trained yet."""

    shapes: list[tuple[str, ModelConfig]]
    """Each model with the axis that it belongs to."""
    recipes: dict[str, Recipe]
    """By the name of the parametrisation."""
    batches: list[Tensor]
    """Token ids (windows, tokens + 1), the last of which is only measured on."""
    tolerance: float
    folder: Path


def check_coordinates(cfg: DictConfig) -> list[Measurement]:
    """Measure all shapes of a configuration of conf/coordinate_check.yaml, and report them.

    Raises:
        ValueError, TypeError, FileNotFoundError: see `plan_check`.
    """
    plan = plan_check(cfg)
    measurements: list[Measurement] = []
    for name, recipe in plan.recipes.items():
        for axis, shape in plan.shapes:
            logger.info("%s: %d layers of width %d", name, shape.num_layers, shape.hidden_size)
            measurements += [
                Measurement(
                    parametrization=name, axis=axis, width=shape.hidden_size,
                    depth=shape.num_layers, step=step, sizes=sizes,
                )
                for step, sizes in enumerate(measure_shape(shape, recipe, plan.batches))
            ]  # fmt: skip
    _write(plan.folder, measurements)
    _print(measurements, plan.tolerance, plan.folder)
    return measurements


def plan_check(cfg: DictConfig) -> CheckPlan:
    """Check a configuration of conf/coordinate_check.yaml, and build what it describes.

    Raises:
        ValueError, TypeError, FileNotFoundError: settings that are out of range or do not fit.
    """
    config = checked_config("coordinate_check", cfg)
    with named_errors("initialization"):
        check_initialization(**config.initialization)
    if config.tokens_per_step % config.sequence_length:
        raise ValueError(
            f"tokens_per_step={config.tokens_per_step} must be a multiple of sequence_length="
            f"{config.sequence_length}; use tokens_per_step="
            f"{max(1, config.tokens_per_step // config.sequence_length) * config.sequence_length}"
        )
    for name, (one, several) in SHAPED_BY.items():
        if config.model.get(name) is not None:
            raise ValueError(
                f"model.{name}={config.model[name]} has no effect, since {several} and {one} set "
                f"it; use {one}={config.model[name]}, or {several}=[{config.model[name]}]"
            )
    shapes = list(_shapes(config))
    for _, shape in shapes:
        if shape.vocab_size < BYTE_VALUES:
            raise ValueError(
                f"model.vocab_size={shape.vocab_size} must be at least {BYTE_VALUES}, since the "
                "tokens of the text are its bytes"
            )
        if shape.max_position_embeddings < config.sequence_length:
            raise ValueError(
                f"sequence_length={config.sequence_length} must be at most "
                f"model.max_position_embeddings={shape.max_position_embeddings}"
            )
    folder = Path(user_path(config.out))
    check_unused("out", folder, own=JSON)
    return CheckPlan(
        shapes=shapes,
        recipes=dict(_recipes(config, [shape for _, shape in shapes])),
        batches=byte_batches(
            _text(config.text),
            windows=config.tokens_per_step // config.sequence_length,
            tokens=config.sequence_length,
            count=min(config.steps * config.seeds, MAX_BATCHES) + 1,
        ),
        tolerance=config.tolerance,
        folder=folder,
    )


def verdict(found: Sequence[Spread], tolerance: float) -> str:
    """`flat: attention within 9 % of its mean, …`, or what drifts and by which factor.

    Args:
        found: of one axis.
        tolerance: largest deviation from the mean that counts as flat.
    """
    drifting = [spread for spread in found if spread.deviation > tolerance]
    if drifting:
        parts = [f"{_words(s.quantity)} x {s.growth:.3g}" for s in drifting]
        return f"drifts from the smallest to the largest: {', '.join(parts)}"
    parts = [f"{_words(s.quantity)} {100 * s.deviation:.0f} %" for s in found]
    return f"flat, at most so far from the mean: {', '.join(parts)}"


def _shapes(config: DictConfig) -> Iterator[tuple[str, ModelConfig]]:
    """Each model with the axis that it belongs to."""
    for width in config.widths:
        yield "width", instantiate(config.model, hidden_size=width, num_blocks=config.depth)
    for depth in config.depths:
        yield "depth", instantiate(config.model, hidden_size=config.width, num_blocks=depth)


def _recipes(config: DictConfig, shapes: Sequence[ModelConfig]) -> Iterator[tuple[str, Recipe]]:
    """The recipe of each parametrisation by its name, checked on every shape."""
    asked = build_parametrization(config)
    found: dict[str, Parametrization | None] = {}
    if config.compare_with_standard or asked is None:
        found[STANDARD] = None
    if asked is not None:
        found[config.parametrization["_target_"].rpartition(".")[2]] = asked
    for name, parametrization in found.items():
        with named_errors("parametrization"):
            if parametrization is not None:
                for shape in shapes:
                    parametrization.configured(shape)
        yield (
            name,
            Recipe(
                optimizer=_checked_optimizer(config, shapes[0], parametrization),
                parametrization=parametrization,
                initialization=dict(config.initialization),
                steps=config.steps,
                seeds=config.seeds,
            ),
        )


def _checked_optimizer(
    config: DictConfig, shape: ModelConfig, parametrization: Parametrization | None
) -> MakeOptimizer:
    """The function that makes the optimizer, after it has made one without memory."""
    make = build_optimizer(config.optimizer, parametrization)
    with named_errors("optimizer", config.optimizer["_target_"]), torch.device("meta"):
        make(MobileLLM(shape))
    return make


def _text(path: str | None) -> bytes:
    """The beginning of the text.

    Raises:
        FileNotFoundError: there is no such file, or no sources of the standard library.
    """
    if path is None:
        parts, size = [], 0
        for file in StandardLibrary().files("train"):
            parts.append(file.read_bytes())
            size += len(parts[-1])
            if size >= TEXT_BYTES:
                break
        return b"".join(parts)[:TEXT_BYTES]
    file = user_path(path)
    if not file.is_file():
        raise FileNotFoundError(f"text={path} is not a file; give a text file, or null")
    with file.open("rb") as stream:
        return stream.read(TEXT_BYTES)


def _write(folder: Path, measurements: Sequence[Measurement]) -> None:
    rows: list[dict[str, Any]] = [asdict(m) | {"place": m.place} for m in measurements]
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(folder / JSON, to_json({"measurements": rows}) + "\n")
    coordinate_figure(rows).savefig(folder / PLOT, dpi=150)


def _print(measurements: Sequence[Measurement], tolerance: float, folder: Path) -> None:
    """The sizes after the last step, and a verdict for each parametrisation and axis."""
    console = make_console(120)
    last = max(found.step for found in measurements)
    for name in dict.fromkeys(found.parametrization for found in measurements):
        own = [found for found in measurements if found.parametrization == name]
        table = Table(box=box.SIMPLE_HEAD, title=f"{name}, after {last} steps", title_style="bold")
        for head in ("width", "layers", *map(_words, QUANTITIES)):
            table.add_column(head, justify="right")
        for found in own:
            if found.step == last:
                sizes = [f"{found.sizes[quantity]:.3g}" for quantity in QUANTITIES]
                table.add_row(str(found.width), str(found.depth), *sizes)
        console.print(table)
        by_axis: dict[str, list[Spread]] = {}
        for spread in spreads(own):
            by_axis.setdefault(spread.axis, []).append(spread)
        for axis, found in by_axis.items():
            console.print(f"{name}, over {axis}: {verdict(found, tolerance)}")
    console.print(f"Plot: {folder / PLOT}")


def _words(name: str) -> str:
    return name.replace("_", " ")
