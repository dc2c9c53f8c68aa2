"""Evaluates saved models on tasks and texts, and stores the results in their folders."""

import importlib.metadata
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mobilellm.accounting import count_parameters
from mobilellm.evaluation.harness.results import TaskResult
from mobilellm.evaluation.harness.task_names import GROUP, WITHOUT, Selection
from mobilellm.evaluation.harness.tasks import OpenTasks, open_tasks
from mobilellm.evaluation.language_model import LanguageModel
from mobilellm.evaluation.stored import Evaluation, read_documents, read_evaluation, save_evaluation
from mobilellm.evaluation.text_score import score_text
from mobilellm.paths import check_writable
from mobilellm.pipeline.conversation_tasks import (
    OpenConversationTask,
    open_conversation_tasks,
)
from mobilellm.pipeline.evaluated_model import check_dtype, check_model, open_language_model
from mobilellm.pipeline.evaluation_items import evaluation_items, task_key
from mobilellm.pipeline.evaluation_progress import EvaluationProgress
from mobilellm.pipeline.evaluation_settings import EvaluationSettings
from mobilellm.pipeline.evaluation_texts import has_documents, read_text
from mobilellm.pipeline.model_hash import model_hash
from mobilellm.provenance import device_name, provenance
from mobilellm.report.evaluation_signals import TaskSignal, task_signals
from mobilellm.report.evaluation_table import short_names
from mobilellm.report.run_groups import group_runs
from mobilellm.report.runs import read_runs
from mobilellm.run_folder import CONFIG, SUMMARY

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluatedModels:
    """The results of all models, for tables."""

    evaluations: tuple[Evaluation, ...]
    names: Mapping[str, str]
    """A short name for each model, by its path."""
    notes: tuple[str, ...] = ()
    """What the reader of the tables must know."""
    signals: tuple[TaskSignal, ...] = ()
    """Signal-to-noise ratios, if the models are runs of several shapes and seeds."""


def evaluate_models(folders: Sequence[Path], settings: EvaluationSettings) -> EvaluatedModels:
    """Evaluate models one after another; tasks that a folder has results for are not repeated.

    Args:
        folders: of runs, models, or Hugging Face models.
        settings: what is evaluated.

    Raises:
        FileNotFoundError: a folder, a file, a tokenizer or the rows of a task are missing.
        ValueError: a setting does not fit a model or a task, or a folder for results cannot be
            written; nothing was evaluated before.
    """
    places = _places(folders, settings.out)
    for place in places:
        if place is not None:
            check_writable("--out", place)
    texts = [(path, read_text(path)) for path in settings.text]
    names = settings.harness_tasks
    opened = open_tasks(names, settings.data, settings.num_fewshot) if names \
        else OpenTasks({}, Selection((), {}), {})  # fmt: skip
    talks = open_conversation_tasks(settings)
    for folder, place in zip(folders, places, strict=True):
        check_model(folder, settings)
        check_dtype(place, settings)
    evaluations, notes = [], []
    for folder, place in zip(folders, places, strict=True):
        # One model at a time is in memory.
        model = open_language_model(folder, settings)
        evaluation, said = _evaluate(model, place, opened, talks, texts, settings)
        evaluations.append(evaluation)
        notes += said
    shapes = _shapes(folders)
    return EvaluatedModels(
        evaluations=tuple(evaluations),
        names=_names(folders, shapes),
        notes=tuple(dict.fromkeys(notes)),
        signals=_signals(evaluations, shapes),
    )


def _shapes(folders: Sequence[Path]) -> dict[Path, tuple[str, int]]:
    """Label of the shape and seed of each finished run among the folders."""
    runs = read_runs([f for f in folders if (f / SUMMARY).is_file()], may_be_empty=True).finished
    groups, _ = group_runs(runs)
    return {run.folder.resolve(): (group.label, run.seed) for group in groups for run in group.runs}


def _signals(
    evaluations: Sequence[Evaluation], shapes: Mapping[Path, tuple[str, int]]
) -> tuple[TaskSignal, ...]:
    """Signal-to-noise ratios over the shapes and seeds of finished runs."""
    return task_signals(
        (shapes[folder][0], evaluation.record())
        for evaluation in evaluations
        if (folder := Path(evaluation.model).resolve()) in shapes
    )


def _names(folders: Sequence[Path], shapes: Mapping[Path, tuple[str, int]]) -> dict[str, str]:
    """Short names: shape and seed if all models are runs that differ in them, or ends of paths."""
    known = [shapes.get(folder.resolve()) for folder in folders]
    if None not in known and len(set(known)) == len(known):
        labels = {str(f): f"{s[0]} seed {s[1]}" for f, s in zip(folders, known, strict=True) if s}
        if len(set(labels.values())) == len(labels):
            return labels
    return short_names([str(folder) for folder in folders])


def _evaluate(
    model: LanguageModel, place: Path | None, opened: OpenTasks,
    talks: Mapping[str, OpenConversationTask], texts: Sequence[tuple[Path, list[str]]],
    settings: EvaluationSettings,
) -> tuple[Evaluation, list[str]]:  # fmt: skip
    folder = Path(model.name)
    facts = _facts(model, has_tasks=bool(opened.tasks)) | {"dtype": settings.dtype}
    evaluation = Evaluation(model=model.name, facts=facts)
    model.model.to(getattr(torch, settings.dtype))
    evaluation.groups = _groups(opened.selection, settings)
    earlier = _earlier(place, evaluation)
    if settings.again:
        earlier = {}
    notes: list[str] = []
    with EvaluationProgress(folder.name) as progress:
        for key, item in evaluation_items(opened, talks, settings).items():
            known = earlier.get(key)
            if known is not None and known.settings == item.settings(model):
                evaluation.tasks[key] = known
                notes.append(f"{key} of {folder} was evaluated before; --again repeats it")
                continue
            progress.begin(key, item.num_requests)
            evaluation.tasks[key] = item.evaluate(model, progress.advance)
            notes += _save(place, evaluation)
        for path, documents in texts:
            progress.begin(path.name, None)
            score = score_text(
                model, documents, settings.text_protocol, are_joined=has_documents(path),
                max_windows=settings.max_windows, advance=progress.advance,
            )  # fmt: skip
            evaluation.text[str(path)] = score.record()
            notes += _save(place, evaluation)
    if talks and settings.train is None:
        notes.append(
            "the baselines know no training data without --train: their calls have no arguments, "
            "and their replies no words"
        )
    return evaluation, [*notes, *_cautions(model, evaluation)]


def _groups(selection: Selection, settings: EvaluationSettings) -> dict[str, tuple[str, ...]]:
    groups = dict(selection.groups)
    if GROUP in groups:
        rest = tuple(name for name in groups[GROUP] if name != WITHOUT)
        groups[f"{GROUP} without {WITHOUT}"] = rest
    return {
        task_key(group, settings): tuple(task_key(name, settings) for name in members)
        for group, members in groups.items()
    }


def _facts(model: LanguageModel, *, has_tasks: bool) -> dict[str, Any]:
    threads = torch.get_num_threads()
    return {
        "model_hash": model_hash(model.model),
        "parameters": count_parameters(model.model.config).stored,
        "harness_version": importlib.metadata.version("lm-eval") if has_tasks else None,
        "protocol": model.protocol,
        "device": device_name(next(model.model.parameters()).device.type),
        "threads": threads,
        **provenance(),
    }


def _places(folders: Sequence[Path], out: Path | None) -> list[Path | None]:
    """Where evaluation.json of each model goes; None for models that are not runs, without `out`.

    Each of several models has a folder of its own in `out`, named by the end of its path.
    """
    if out is None:
        return [
            folder if (folder / SUMMARY).is_file() or (folder / CONFIG).is_file() else None
            for folder in folders
        ]
    if len(folders) == 1:
        return [out]
    names = short_names([str(folder.resolve()) for folder in folders])
    return [out / names[str(folder.resolve())].replace("/", "-") for folder in folders]


def _earlier(place: Path | None, evaluation: Evaluation) -> dict[str, TaskResult]:
    """Results that the folder has for the same weights."""
    if place is None:
        return {}
    before = read_evaluation(place) or {}
    is_same = before.get("model_hash") == evaluation.facts["model_hash"]
    return read_documents(place) if is_same else {}


def _save(place: Path | None, evaluation: Evaluation) -> list[str]:
    if place is None:
        return []
    return [
        f"{place} has results of {name} on more documents or windows, which were kept"
        for name in save_evaluation(place, evaluation)
    ]


def _cautions(model: LanguageModel, evaluation: Evaluation) -> list[str]:
    """What may make the results of a model misleading."""
    found = [
        f"{model.name}: {result.truncated} prompts of {name} were longer than the context of "
        f"{model.context_length} tokens, and lost their begin"
        for name, result in evaluation.tasks.items()
        if result.truncated
    ]
    found += [
        f"{model.name}: {left_out} turns of {name} do not fit into the context of "
        f"{model.context_length} tokens with an answer, and are left out"
        for name, result in evaluation.tasks.items()
        if (left_out := result.counts.get("left_out"))
    ]
    is_plain = any(not result.ratios for result in evaluation.tasks.values()) and not model.is_chat
    if is_plain and model.tokenizer.settings.template:
        found.append(
            f"{model.name} has a chat template, but the prompts were given as plain text; --chat "
            "uses the template, with which the model was fine-tuned"
        )
    return found
