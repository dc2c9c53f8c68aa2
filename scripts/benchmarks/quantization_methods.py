"""Compares methods of quantization on the same windows of text, without training."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobilellm.accounting import count_parameters
from mobilellm.checkpoint import stored_bytes
from mobilellm.compression import AWQ, GPTQ, RoundToNearest
from mobilellm.compression.quantization_recipe import QuantizationRecipe
from mobilellm.data.batches import CorpusBatches
from mobilellm.formats.model_folder import open_model
from mobilellm.hydra_app.configuration import compose
from mobilellm.losses.cross_entropy import token_losses
from mobilellm.models import MobileLLM
from mobilellm.pipeline.compress_data import data_to_compress_on

CALIBRATION_TOKENS = 65_536
INT8: Mapping[str, Any] = {"bits": 8, "group": None}
RECIPES: dict[str, QuantizationRecipe] = {
    "int8 per output": RoundToNearest(**INT8),
    "int8 per output, inputs in int8 (W8A8)": RoundToNearest(**INT8, activation_bits=8),
    "int4 g32, nearest": RoundToNearest(),
    "int4 g32, nearest, embedding in floats": RoundToNearest(embedding_bits=None),
    "int4 g32, nearest, embedding in int4 g32": RoundToNearest(embedding_bits=4),
    "int4 g32, nearest, inputs in int8": RoundToNearest(activation_bits=8),
    "int4 g32 asymmetric, nearest": RoundToNearest(symmetric=False),
    "int4 g128, nearest": RoundToNearest(group=128),
    "NF4 g64, nearest": RoundToNearest(levels="normal", group=64),
    "int4 g32, AWQ": AWQ(),
    "int4 g32, GPTQ": GPTQ(),
    "int4 g32, GPTQ from the first column on": GPTQ(activation_order=False),
    "int4 g32, GPTQ, propagated": GPTQ(fit="propagated"),
    "int4 g32, GPTQ, inputs in int8": GPTQ(activation_bits=8),
    "int4 g128, GPTQ": GPTQ(group=128),
}


@dataclass(frozen=True)
class QuantizedResult:
    """One row: a model, its size, and its loss on the windows that all models read."""

    method: str
    bytes: int
    """Size of its tensors in the file."""
    bits_per_weight: float
    loss: float
    """Nats per token."""
    difference: float
    """Loss minus that of the model of floats."""
    half_width: float
    """Half of the 95 % interval of the difference, from the differences of single windows."""


def compare_methods(
    run: Path,
    others: Sequence[Path] = (),
    *,
    validation_tokens: int | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> list[QuantizedResult]:
    """Quantize the model of a run by every method, and measure all on its validation text.

    Args:
        run: folder of a run, whose data calibrate and measure.
        others: folders of further models with the same tokenizer, measured as they are.
        validation_tokens: on which losses are measured, in windows of 256 tokens; None: all.
        log: called with one line for each row.
    """
    model, _ = open_model(run)
    limit = "null" if validation_tokens is None else str(validation_tokens)
    data = data_to_compress_on(compose("compress", [f"validation_tokens={limit}"]), run, model)
    floats = window_losses(model, data)
    rows = [_row("floats", model, floats, floats)]
    calibration = data.calibration(CALIBRATION_TOKENS)
    for method, recipe in RECIPES.items():
        small = recipe.apply(model, recipe.plan(model, calibration), calibration).model
        rows.append(_row(method, small, window_losses(small, data), floats))
        log(f"{method}: {rows[-1].difference:+.4f}")
    for folder in others:
        other, _ = open_model(folder)
        rows.append(_row(str(folder), other, window_losses(other, data), floats))
    return rows


@torch.no_grad()
def window_losses(model: MobileLLM, data: CorpusBatches) -> Tensor:
    """Loss of each validation window in nats per token, (windows,) in float64."""
    model.eval()
    losses = []
    for batch in data.validation():
        hidden = model(batch["input_ids"], logits=False).hidden
        losses.append(token_losses(hidden, model.unembed, batch["labels"]).double().mean(1))
    return torch.cat(losses)


def _row(method: str, model: MobileLLM, losses: Tensor, floats: Tensor) -> QuantizedResult:
    differences, size = losses - floats, stored_bytes(model)
    return QuantizedResult(
        method=method,
        bytes=size,
        bits_per_weight=8 * size / count_parameters(model.config).stored,
        loss=float(losses.mean()),
        difference=float(differences.mean()),
        half_width=1.96 * float(differences.std()) / math.sqrt(len(differences)),
    )
