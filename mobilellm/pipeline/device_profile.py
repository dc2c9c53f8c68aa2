"""Measures the latencies of a grid of shapes on this machine, and writes the profile."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mobilellm.accounting import count_parameters
from mobilellm.evaluation.device_profile import DeviceProfile, MeasuredShape
from mobilellm.evaluation.latency import time_rounds
from mobilellm.files import write_text_atomically
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.shape_name import shape_name
from mobilellm.paths import check_writable
from mobilellm.pipeline.device import check_device
from mobilellm.provenance import command_line, device_name, versions
from mobilellm.ranges import Range, check_fields
from mobilellm.report.engine_profile import plain_table
from mobilellm.search.latency import MINIMUM_SHAPES, LatencyModel
from mobilellm.search.proportions import config_for_shape
from mobilellm.units import MISSING, count_text, plural

if TYPE_CHECKING:
    from rich.table import Table

logger = logging.getLogger(__name__)

COUNT = Range(at_least=1, cap=10_000)
SIZE = Range(at_least=1, cap=2**24)
SIMILAR = 0.15
"""Relative difference of body parameters up to which two shapes are about equally large."""


@dataclass(frozen=True, kw_only=True)
class ProfileGrid:
    """The shapes that are measured, and how.

    Raises:
        ValueError: a number is out of range, or the grid is too small to fit a latency model.
    """

    depths: Sequence[int] = (2, 4, 8, 12, 16)
    """Stored blocks."""
    widths: Sequence[int] = (32, 64, 96, 128, 192, 256)
    vocab_size: int = 2048
    head_dim: int = 16
    group_size: int = 1
    """Query heads per key-value head."""
    block_repeats: Sequence[int] = (1,)
    """How often each block runs; with several numbers, each shape is measured with each."""
    context: int = 64
    """Tokens of the prompt, which are in the KV cache before the tokens that are decoded."""
    tokens: int = 16
    """Tokens decoded one by one in each round."""
    rounds: int = 30
    threads: int | None = None
    """CPU threads; default: those of torch."""
    device: str = "cpu"
    """`cpu`, `cuda` or `mps`."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_fields(
            self, depths=COUNT, widths=SIZE, block_repeats=COUNT, vocab_size=SIZE,
            head_dim=SIZE, group_size=COUNT, context=SIZE, tokens=COUNT, rounds=COUNT,
            threads=COUNT,
        )  # fmt: skip
        check_device(self.device, "--device cpu")
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
                block_repeats=repeats, vocab_size=self.vocab_size,
                max_position_embeddings=self.context + self.tokens,
            )
            for depth, width, repeats in itertools.product(
                sorted(set(self.depths)), sorted(set(self.widths)), sorted(set(self.block_repeats))
            )
        ]  # fmt: skip


def check_profile_file(path: Path) -> None:
    """Check that a new file can be written.

    Raises:
        ValueError: the file exists, and runs may have been planned with it; or its folder cannot
            be written.
    """
    if path.exists():
        raise ValueError(
            f"--out {path} exists, and is not overwritten, because runs may have been trained with "
            "shapes from it; give another name, or remove it"
        )
    check_writable("--out", path.absolute().parent)


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
            _measured(config, seconds[str(number)]) for number, config in enumerate(configs)
        ),
    )
    model = LatencyModel(profile)
    write_text_atomically(out, profile.to_json())
    return model


def _measured(model: ModelConfig, rounds: Sequence[tuple[float, float]]) -> MeasuredShape:
    prefill, decode = (1000 * np.array(kind) for kind in zip(*rounds, strict=True))
    return MeasuredShape(
        model=model,
        decode_ms_per_token=float(np.median(decode)),
        decode_ms_p95=float(np.percentile(decode, 95)),
        prefill_ms=float(np.median(prefill)),
        prefill_ms_p95=float(np.percentile(prefill, 95)),
    )


HEADS = ("shape", "body", "prefill", "95 %", "predicted", "decode", "95 %", "predicted", "error")
"""Headings of `profile_rows`."""


def profile_rows(model: LatencyModel) -> list[tuple[str, ...]]:
    """One row per measured shape: milliseconds of the prompt and per token, and predictions.

    The predictions are made from the other shapes; the error is that of decoding.
    """
    decode, prefill = model.decode, model.prefill
    rows = []
    for place, shape in enumerate(model.profile.shapes):
        config = shape.model
        rows.append(
            (
                # Shorter, so that the table fits into 80 columns.
                shape_name(config).replace(" shared", ""),
                count_text(count_parameters(config).body),
                _ms(shape.prefill_ms), _ms(shape.prefill_ms_p95),
                _ms(None if prefill is None else prefill.left_out[place]),
                _ms(shape.decode_ms_per_token), _ms(shape.decode_ms_p95),
                _ms(decode.left_out[place]), f"{100 * decode.errors[place]:+.0f} %",
            )
        )  # fmt: skip
    return rows


def _ms(time: float | None) -> str:
    return MISSING if time is None else f"{time:.3g}"


def profile_parts(model: LatencyModel) -> "list[Table | str]":
    """A profile for the terminal: a table that fits into 80 columns, then sentences."""
    fitted = (("Prefill", model.prefill), ("Decode", model.decode))
    depth = cost_of_depth(model)
    return [
        plain_table(HEADS, profile_rows(model), text_columns=0),
        "Milliseconds for the prompt (prefill) and per token (decode): median and 95th percentile "
        "over the rounds, and what the other shapes predict.",
        f"{model.profile.conditions}, {plural(model.profile.rounds, 'round')}.",
        *(f"{name}: {time.error_text}." for name, time in fitted if time is not None),
        *([] if depth is None else [depth]),
    ]


def cost_of_depth(model: LatencyModel) -> str | None:
    """How much slower the deeper of two measured shapes of about equal body parameters is.

    Of all such pairs, the one with the largest ratio of depths; None if there is none.
    """
    shapes = [
        (count_parameters(shape.model).body, shape)
        for shape in model.profile.shapes if shape.model.block_repeats == 1
    ]  # fmt: skip
    pairs = [
        (deep, wide)
        for (one, deep), (other, wide) in itertools.permutations(shapes, 2)
        if deep.model.num_layers > wide.model.num_layers and abs(one / other - 1) <= SIMILAR
    ]
    if not pairs:
        return None
    deep, wide = max(pairs, key=lambda pair: pair[0].model.num_layers / pair[1].model.num_layers)
    ratio = deep.decode_ms_per_token / wide.decode_ms_per_token
    names = [shape_name(s.model) for s in (deep, wide)]
    body = count_text(count_parameters(deep.model).body)
    return (
        f"At about equal body parameters ({body}), {names[0]} takes {ratio:.1f} times as long per "
        f"token as {names[1]}: each layer costs {1000 * model.decode.coefficients[1]:.3g} µs "
        "beside the time to read its weights."
    )
