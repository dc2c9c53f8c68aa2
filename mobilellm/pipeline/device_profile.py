"""Measures the decode latencies of a grid of shapes on this machine, and writes the profile."""

import itertools
import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mobilellm.evaluation.device_profile import DeviceProfile, MeasuredShape
from mobilellm.evaluation.latency import time_rounds
from mobilellm.files import write_text_atomically
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.checks import check_choice
from mobilellm.provenance import command_line, device_name, versions
from mobilellm.ranges import Range, check_fields
from mobilellm.search.latency import MINIMUM_SHAPES, LatencyModel
from mobilellm.search.proportions import config_for_shape

logger = logging.getLogger(__name__)

ACCELERATORS = ("cpu", "cuda", "mps")
COUNT = Range(at_least=1, cap=10_000)
SIZE = Range(at_least=1, cap=2**24)


@dataclass(frozen=True, kw_only=True)
class ProfileGrid:
    """The shapes that are measured, and how.

    Raises:
        ValueError: a number is out of range, or the grid is too small to fit a latency model.
    """

    depths: Sequence[int] = (2, 4, 8, 16)
    widths: Sequence[int] = (32, 64, 96, 128, 192, 256)
    vocab_size: int = 2048
    head_dim: int = 16
    group_size: int = 1
    """Query heads per key-value head."""
    context: int = 64
    """Tokens in the KV cache before the tokens that are timed."""
    tokens: int = 16
    """Tokens decoded one by one in each round."""
    rounds: int = 9
    threads: int | None = None
    """CPU threads; default: those of torch."""
    device: str = "cpu"
    """`cpu`, `cuda` or `mps`."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_fields(
            self, depths=COUNT, widths=SIZE, vocab_size=SIZE, head_dim=SIZE, group_size=COUNT,
            context=SIZE, tokens=COUNT, rounds=COUNT, threads=COUNT,
        )  # fmt: skip
        check_choice("device", self.device, ACCELERATORS)
        if self.device != "cpu" and not getattr(torch, self.device).is_available():
            raise ValueError(f"device={self.device} is not available here; use --device cpu")
        for name in ("depths", "widths"):
            if len(set(getattr(self, name))) < 2:
                raise ValueError(
                    f"--{name} {','.join(map(str, getattr(self, name)))} has fewer than two "
                    "different values, which do not show how the latency grows; give more"
                )
        number = len(set(self.depths)) * len(set(self.widths))
        if number < MINIMUM_SHAPES:
            raise ValueError(
                f"--depths and --widths make {number} shapes, and {MINIMUM_SHAPES} are required; "
                "give more values"
            )

    def configs(self) -> list[ModelConfig]:
        """Every depth with every width; the feed-forward width is three times the width.

        Raises:
            ValueError: sizes that do not divide.
        """
        return [
            config_for_shape(
                depth, width, head_dim=self.head_dim, group_size=self.group_size,
                vocab_size=self.vocab_size, max_position_embeddings=self.context + self.tokens,
            )
            for depth, width in itertools.product(
                sorted(set(self.depths)), sorted(set(self.widths))
            )
        ]  # fmt: skip


def check_profile_file(path: Path) -> None:
    """Check that a new file can be written.

    Raises:
        ValueError: the file exists; runs may have been planned with it.
    """
    if path.exists():
        raise ValueError(
            f"--out {path} exists, and is not overwritten, because runs may have been trained with "
            "shapes from it; give another name, or remove it"
        )


def profile_device(out: Path, grid: ProfileGrid) -> LatencyModel:
    """Measure all shapes side by side, write the profile to `out`, and fit the latency model.

    Raises:
        ValueError: the file exists, or the measurements do not determine a latency model.
    """
    check_profile_file(out)
    configs = grid.configs()
    before = torch.get_num_threads()
    torch.set_num_threads(grid.threads or before)
    try:
        models = {
            str(number): MobileLLM(config).to(grid.device).eval()
            for number, config in enumerate(configs)
        }
        logger.info("measuring %d shapes in %d rounds, side by side", len(configs), grid.rounds + 1)
        seconds = time_rounds(
            models, prefill_tokens=grid.context, decode_tokens=grid.tokens, rounds=grid.rounds
        )
        threads = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    profile = DeviceProfile(
        accelerator=grid.device,
        device=device_name(grid.device),
        threads=threads,
        context=grid.context,
        decode_tokens=grid.tokens,
        rounds=grid.rounds,
        versions=versions(),
        command=command_line(),
        shapes=tuple(
            MeasuredShape(model=config, decode_ms_per_token=1000 * _median(seconds[str(number)]))
            for number, config in enumerate(configs)
        ),
    )
    model = LatencyModel(profile)
    write_text_atomically(out, profile.to_json())
    return model


def _median(rounds: Sequence[tuple[float, float]]) -> float:
    return statistics.median(decode for _, decode in rounds)


def profile_rows(model: LatencyModel) -> list[tuple[str, ...]]:
    """One row per measured shape: layers, width, measured and predicted milliseconds, error."""
    rows: list[tuple[str, ...]] = []
    for shape, error in zip(model.profile.shapes, model.errors, strict=True):
        time: Any = shape.decode_ms_per_token
        rows.append(
            (
                str(shape.model.num_layers), str(shape.model.hidden_size), f"{time:.3g}",
                f"{time * (1 + error):.3g}", f"{100 * error:+.0f} %",
            )
        )  # fmt: skip
    return rows
