"""Compares methods that factorise the same matrices of a saved model, without training."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from mobilellm.accounting.parameters import matrix_costs
from mobilellm.compression.factorization import Factorization
from mobilellm.compression.recipe import Recipe
from mobilellm.compression.selection import select_layers
from mobilellm.compression.structured_pruning import StructuredPruning
from mobilellm.evaluation.validation import sum_losses
from mobilellm.formats.model_folder import open_model
from mobilellm.models.config import check_choice

WINDOW = 512
BATCH = 8
KRONECKER = ({"right": [1, 2], "num_terms": 1, "transpose_for_wide": False},)
MIXED = ({"num_terms": None}, {"right": [4, 8], "num_terms": 2})

FACTORISED: dict[str, dict[str, Any]] = {
    "SVD": {"fit": "weights"},
    "whitened SVD": {},
    "Kronecker (·×½)⊗(1×2)": {"parts": KRONECKER, "fit": "weights"},
    "the same, permuted": {"parts": KRONECKER, "fit": "weights", "permutations": "all"},
    "the same, activation-aware": {"parts": KRONECKER},
    "the same, both": {"parts": KRONECKER, "permutations": "all"},
    "mixed: low rank + 2 terms ·⊗(4×8)": {"parts": MIXED},
    "mixed, shapes searched": {"parts": None},
    "mixed, shapes and layers searched": {"parts": None, "allocation": "searched"},
    "low rank, propagated": {"fit": "propagated"},
    "low rank, propagated, layers searched": {"fit": "propagated", "allocation": "searched"},
    "mixed, propagated": {"parts": MIXED, "fit": "propagated"},
    "all searched, propagated": {"parts": None, "fit": "propagated", "allocation": "searched"},
    "low rank, reconstructed": {"fit": "reconstructed"},
    "pivoted low rank": {"pivoted": True},
    "pivoted, propagated": {"pivoted": True, "fit": "propagated"},
    "pivoted and 2 terms, propagated": {"pivoted": True, "parts": MIXED, "fit": "propagated"},
    "pivoted, reconstructed": {"pivoted": True, "fit": "reconstructed"},
    "pivoted, self-distilled": {
        "pivoted": True,
        "fit": "reconstructed",
        "self_distillation": {},
    },
}
# Only for whole feed-forward layers.
STRUCTURED: dict[str, dict[str, Any]] = {
    "channels by their outputs": {"importance": "outputs"},
    "channels eliminated": {},
    "channels eliminated, reconstructed": {"fit": "reconstructed"},
    "the same, self-distilled": {"fit": "reconstructed", "self_distillation": {}},
}


def compare_methods(
    folder: str | Path,
    train: str | Path,
    validation: str | Path,
    layers: Sequence[str],
    ratio: float = 0.5,
    methods: Sequence[str] | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Compress the same matrices by each method, and measure the loss on 64 windows.

    Args:
        folder: of the model, with its tokenizer.
        train: JSON lines with the field `text`; 32 windows of it are the calibration set.
        validation: JSON lines with the field `text`.
        layers: patterns of the matrices.
        ratio: share of their parameters that is kept; the method with one Kronecker product ignores
            it, since its size is fixed.
        methods: names of the methods that are compared; None: all.
        log: called with one line after each method.

    Returns:
        One row per method: `method`, `parameters` of the matrices, `loss` in nats per token, and
        `seconds`.

    Raises:
        FileNotFoundError: the model has no tokenizer.
        ValueError: a text has too few tokens, or a method is unknown.
    """
    for method in methods or ():
        check_choice("methods", method, (*FACTORISED, *STRUCTURED))
    model, tokenizer = open_model(folder)
    if tokenizer is None:
        raise FileNotFoundError(
            f"{folder} has no tokenizer.model; give a model folder with a tokenizer"
        )
    calibration = list(windows(tokenizer, train, 32, model.config.bos_token_id))
    held_out = list(windows(tokenizer, validation, 64, model.config.bos_token_id))
    rows = [{"method": "dense", "loss": sum_losses(model, held_out).loss}]
    names = select_layers(model.config, layers)
    for method, recipe in _recipes(layers, names, ratio):
        if methods is not None and method not in methods:
            continue
        started = time.monotonic()
        plan = recipe.plan(model, calibration)
        compressed = recipe.apply(model, plan, calibration).model
        rows.append({
            "method": method,
            "parameters": sum(matrix_costs(compressed.config)[name].parameters for name in names),
            "loss": sum_losses(compressed, held_out).loss,
            "seconds": time.monotonic() - started,
        })  # fmt: skip
        log(f"{method}: {rows[-1]['loss']:.3f}")
    return rows


def _recipes(
    layers: Sequence[str], names: Sequence[str], ratio: float
) -> Iterator[tuple[str, Recipe[Any]]]:
    for method, choices in FACTORISED.items():
        # The size of a single whole product is fixed: half of the matrix, and two numbers.
        budget = None if choices.get("parts") is KRONECKER else {"ratio": ratio}
        yield method, Factorization(layers=layers, budget=budget, **choices)
    if all(".feed_forward." in name for name in names):
        for method, choices in STRUCTURED.items():
            yield method, StructuredPruning(layers=layers, keep_channels=ratio, **choices)


def windows(
    tokenizer: Path, path: str | Path, count: int, bos_token_id: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches of windows of 513 token ids, from joined documents that begin with BOS."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))  # pyright: ignore
    ids: list[int] = []
    with Path(path).open(encoding="utf-8") as lines:
        for line in lines:
            ids += [bos_token_id, *processor.encode(json.loads(line)["text"])]
            if len(ids) >= count * (WINDOW + 1):
                break
    if len(ids) < count * (WINDOW + 1):
        raise ValueError(
            f"{path} has {len(ids)} tokens, fewer than {count} windows of {WINDOW} need; "
            "give more text"
        )
    whole = torch.tensor(ids[: count * (WINDOW + 1)]).view(count, WINDOW + 1)
    for first, end in pairwise(range(0, count + 1, BATCH)):
        rows = whole[first:end]
        yield {"input_ids": rows[:, :-1].contiguous(), "labels": rows[:, 1:].contiguous()}
