"""Log-likelihoods of this project and of the harness's Hugging Face backend: values and time."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mobilellm.evaluation.shared_prefixes import MAX_GROUP_TOKENS
from scripts.benchmarks.rounds import alternate, median_ratio

TRIED_DOCUMENTS = 20
"""Documents on which the batch sizes of the harness are tried."""
TIMED_DOCUMENTS = 50
"""Documents of a round of the time measurement."""
NEAR_TIE = 2e-3
"""Nats; choices that are closer may be ordered differently by rounding."""

Score = Callable[[Sequence[Any]], list[tuple[float, bool]]]


def open_both(folder: Path, tokenizer: Path | None = None) -> tuple[Any, Callable[[int], Any]]:
    """Open a model here and in the harness.

    Returns:
        Ours, and a function that gives the harness's for a batch size.
    """
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mobilellm.evaluation.harness.model import HarnessModel
    from mobilellm.pipeline.evaluate import open_language_model
    from mobilellm.pipeline.evaluation_settings import EvaluationSettings

    settings = EvaluationSettings(tasks=("mobilellm",), tokenizer=tokenizer)
    ours = HarnessModel(open_language_model(folder, settings))
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    their_tokenizer = AutoTokenizer.from_pretrained(folder)

    def harness(batch_size: int) -> Any:
        backend: Any = HFLM
        return backend(pretrained=theirs, tokenizer=their_tokenizer, batch_size=batch_size,
                    device="cpu")  # fmt: skip

    return ours, harness


def compare_task(
    task: Any,
    ours: Any,
    harness: Callable[[int], Any],
    *,
    limit: int,
    batch_sizes: Sequence[int],
    rounds: int,
) -> dict[str, Any]:
    """Compare values on the first `limit` documents of a task, and the time on `TIMED_DOCUMENTS`.

    The harness runs with the batch size that is fastest on the first documents.
    """
    task.build_all_requests(limit=limit)
    requests = list(task.instances)
    seconds = {size: _seconds(harness(size), requests, TRIED_DOCUMENTS) for size in batch_sizes}
    best = min(seconds, key=lambda size: seconds[size])
    theirs = harness(best)
    timed = _first(requests, TIMED_DOCUMENTS)
    times = alternate(
        {
            "ours": lambda: ours.loglikelihood(timed),
            "theirs": lambda: theirs.loglikelihood(timed, disable_tqdm=True),
        },
        rounds=rounds,
    )
    found: dict[str, list[tuple[float, bool]]] = {
        "ours": ours.loglikelihood(requests),
        "theirs": theirs.loglikelihood(requests, disable_tqdm=True),
    }
    batches = {size: _with_batches(ours, size).loglikelihood(requests) for size in (1, 64)}
    return {
        "documents": len({request.doc_id for request in requests}),
        "requests": len(requests),
        "timed_requests": len(timed),
        "best_batch_size": best,
        "seconds_by_batch_size": seconds,
        "our_seconds": statistics.median(times["ours"]),
        "their_seconds": statistics.median(times["theirs"]),
        "speed_ratio": median_ratio(times, "ours", "theirs"),
        "largest_difference": _largest(found["ours"], found["theirs"]),
        "largest_difference_between_batch_sizes": _largest(batches[1], batches[64]),
        **_accuracies(task, requests, found),
    }


def _with_batches(ours: Any, rows: int) -> Any:
    """Ours with batches of at most this number of rows of the longest length."""
    tokens = 1 if rows == 1 else rows * MAX_GROUP_TOKENS
    return type(ours)(replace(ours.model, batch_tokens=tokens))


def _first(requests: Sequence[Any], documents: int) -> list[Any]:
    return [request for request in requests if request.doc_id < documents]


def _seconds(model: Any, requests: Sequence[Any], documents: int) -> float:
    few = _first(requests, documents)
    start = time.perf_counter()
    model.loglikelihood(few, disable_tqdm=True)
    return time.perf_counter() - start


def _largest(first: Sequence[tuple[float, bool]], second: Sequence[tuple[float, bool]]) -> float:
    return max(abs(a - b) for (a, _), (b, _) in zip(first, second, strict=True))


def _accuracies(
    task: Any, requests: Sequence[Any], found: dict[str, list[tuple[float, bool]]]
) -> dict[str, Any]:
    """The harness's metrics of both, and the documents on which they differ without a near tie."""
    by_document: dict[int, list[int]] = {}
    for index, request in enumerate(requests):
        by_document.setdefault(request.doc_id, []).append(index)
    sums: dict[str, dict[str, float]] = {"ours": {}, "theirs": {}}
    differing = near = 0
    for indices in by_document.values():
        doc = requests[indices[0]].doc
        metrics = {
            name: task.process_results(doc, [scores[i] for i in indices])
            for name, scores in found.items()
        }
        for name, values in metrics.items():
            for metric in ("acc", "acc_norm"):
                if metric in values:
                    sums[name][metric] = sums[name].get(metric, 0.0) + values[metric]
        shown = [
            {m: v for m, v in each.items() if m.startswith("acc")} for each in metrics.values()
        ]
        if shown[0] != shown[1]:
            is_near = _has_near_tie([found["theirs"][i][0] for i in indices])
            near += is_near
            differing += not is_near
    count = len(by_document)
    return {
        "our_metrics": {metric: value / count for metric, value in sums["ours"].items()},
        "their_metrics": {metric: value / count for metric, value in sums["theirs"].items()},
        "differing_documents": differing,
        "differing_documents_with_near_ties": near,
    }


def _has_near_tie(values: Sequence[float]) -> bool:
    ordered = np.sort(np.asarray(values))[::-1]
    return bool(len(ordered) > 1 and ordered[0] - ordered[1] <= NEAR_TIE)
