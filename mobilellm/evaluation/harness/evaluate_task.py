"""Runs one task of the harness on a model."""

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

from mobilellm.evaluation.choices import ChoiceScores
from mobilellm.evaluation.harness.results import TaskResult
from mobilellm.evaluation.language_model import Advance, LanguageModel, encode_pairs

Sample = Mapping[str, Any]


def evaluate_task(
    model: LanguageModel,
    name: str,
    task: Any,
    *,
    limit: int | None = None,
    with_unconditional: bool = True,
    advance: Advance | None = None,
) -> TaskResult:
    """Evaluate a model on a task.

    Args:
        model: with its tokenizer.
        name: of the task.
        task: from `open_tasks`.
        limit: use the first documents only; None: all of them.
        with_unconditional: whether to score the answers without their questions as well.
        advance: called with the number of requests that were answered, after each batch.

    Raises:
        ValueError: the task needs what the model does not have: images, sampling, or a context
            that is long enough for an answer.
    """
    # Both need an optional dependency.
    from lm_eval.evaluator import evaluate

    from mobilellm.evaluation.harness.model import HarnessModel

    harness_model = HarnessModel(model, advance)
    with _no_progress_bars():
        found: Any = evaluate(
            lm=harness_model, task_dict={"tasks": {name: task}}, limit=limit, bootstrap_iters=0,
            log_samples=True, apply_chat_template=model.is_chat,
            fewshot_as_multiturn=model.is_chat,
        )  # fmt: skip
    samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    # A task with several filters lists its documents once for each of them.
    samples = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    common: dict[str, Any] = {
        "task": name,
        "documents": len(samples),
        "harness": _harness_metrics(found["results"][name]),
        "truncated": harness_model.truncated,
        "settings": task_settings(model, task, limit),
    }
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = _choices(model, task, samples, with_unconditional, advance)
        return TaskResult(choices=choices, **common)
    nats, sizes = _predicted(task, samples)
    return TaskResult(values=_values(samples), nats=nats, num_bytes=sizes, **common)


def task_settings(model: LanguageModel, task: Any, limit: int | None) -> dict[str, Any]:
    """What the results of a task depend on, apart from the model's weights.

    `documents_hash` is a hash of the rows: models are compared on equal documents only.
    """
    digest = hashlib.blake2b(digest_size=8)
    for _, document in task.doc_iterator(limit=limit):
        digest.update(repr(document).encode())
    return {
        "num_fewshot": int(task.get_config("num_fewshot") or 0),
        "limit": limit,
        "chat_template": model.is_chat,
        "adds_bos": model.adds_bos,
        "task_version": str(task.VERSION),
        "documents_hash": digest.hexdigest(),
    }


def num_requests(task: Any, limit: int | None, *, with_unconditional: bool = True) -> int:
    """About the number of requests of a task, for a progress bar."""
    documents = min(len(task.eval_docs), limit or len(task.eval_docs))
    if task.OUTPUT_TYPE != "multiple_choice":
        return documents
    choices = len(task.doc_to_choice(task.eval_docs[0]))
    return documents * choices * (2 if with_unconditional else 1)


def _choices(
    model: LanguageModel,
    task: Any,
    samples: Sequence[Sample],
    with_unconditional: bool,
    advance: Advance | None,
) -> tuple[ChoiceScores, ...]:
    texts = [[text for _, text in sample["arguments"]] for sample in samples]
    alone = iter(_unconditional(model, texts, advance) if with_unconditional else ())
    found = []
    for sample, continuations in zip(samples, texts, strict=True):
        # If the choices are in the context, as in WinoGrande, all continuations are the same.
        is_in_context = bool(task.multiple_input)
        names = continuations if is_in_context else task.doc_to_choice(sample["doc"])
        gold = task.doc_to_text(sample["doc"]) if is_in_context else sample["target"]
        found.append(
            ChoiceScores(
                log_likelihoods=tuple(score for ((score, _),) in sample["resps"][: len(names)]),
                unconditional=tuple(next(alone) for _ in names) if with_unconditional else None,
                characters=tuple(len(text) for text in names),
                num_bytes=tuple(len(text.strip().encode()) for text in names),
                right=_right(gold, names),
            )
        )
    return tuple(found)


def _unconditional(
    model: LanguageModel, texts: Sequence[Sequence[str]], advance: Advance | None
) -> list[float]:
    """Log-likelihood of each answer after an empty context."""
    pairs = encode_pairs(model, [("", text) for of_document in texts for text in of_document])
    return [score.log_likelihood for score in model.score(pairs.pairs, advance)]


def _right(gold: Any, names: Sequence[str]) -> tuple[int, ...]:
    """Indices of the right choices, from the harness's index, text, or list of these."""
    every = gold if isinstance(gold, list | tuple) else [gold]
    return tuple(names.index(each) if isinstance(each, str) else int(each) for each in every)


def _predicted(task: Any, samples: Sequence[Sample]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Nats and bytes of the text that each document asks the model to predict."""
    if task.OUTPUT_TYPE == "loglikelihood":
        nats = tuple(-sample["resps"][0][0][0] for sample in samples)
        return nats, tuple(len(s["arguments"][0][1].strip().encode()) for s in samples)
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        nats = tuple(-sample["resps"][0][0] for sample in samples)
        return nats, tuple(len(s["arguments"][0][0].encode()) for s in samples)
    return (), ()


def _values(samples: Sequence[Sample]) -> dict[str, tuple[float, ...]]:
    """Metrics of the harness that are one number per document; `acc` becomes `accuracy`."""
    names = [
        name for name in samples[0]["metrics"]
        if name != "perplexity" and all(isinstance(s.get(name), Real) for s in samples)
    ]  # fmt: skip
    return {
        "accuracy" if name == "acc" else name: tuple(float(sample[name]) for sample in samples)
        for name in names
    }


def _harness_metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """The harness's metrics by their names, without the names of its filters."""
    return {
        key.partition(",")[0]: float(value)
        for key, value in results.items()
        if isinstance(value, Real) and "stderr" not in key and "," in key
    }


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Hide the harness's own bars, of which it shows one per task for building requests."""
    from lm_eval.api import task as module  # an optional dependency

    bar = module.tqdm
    module.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        module.tqdm = bar
