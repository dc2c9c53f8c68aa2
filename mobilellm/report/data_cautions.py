"""Cautions about configurations that were not trained or validated on the same tokens."""

from collections.abc import Iterable, Sequence

from mobilellm.report.caution import Caution, labels_by_value
from mobilellm.report.comparability import validation_tokens
from mobilellm.report.run_groups import RunGroup
from mobilellm.report.runs import Run


def data_cautions(groups: Sequence[RunGroup]) -> Iterable[Caution]:
    """Yield cautions about different data or tokenizers, found by the hashes of prepared data."""
    yield from _begin_of_text(groups)
    consequences = {
        "tokenizer": "nats per token are not comparable, so verdicts use bits per byte",
        "validation": "no verdict is given between them",
        "train": "the configurations were trained on different text",
        "data": "the data were prepared from different sources",
    }
    runs = [run for group in groups for run in group.runs]
    differing = [
        name for name in consequences if len({run.fact(f"hashes.{name}") for run in runs}) > 1
    ]
    if "tokenizer" in differing and "data" not in differing:
        # With different tokenizers, the hashes of the same text differ too.
        differing = ["tokenizer"]
    for name in differing:
        values = {group.label: str(group.first.fact(f"hashes.{name}"))[:8] for group in groups}
        noun = {"train": "training text", "validation": "validation text"}.get(name, name)
        text = f"the {noun} differs ({labels_by_value(values)}): {consequences[name]}"
        yield Caution("data", True, text)
    if "tokenizer" in differing and any(validation_tokens(run) for run in runs):
        text = (
            "validation_tokens selects windows of the validation text, and which ones depends on "
            "the tokenizer: part of a difference may come from this choice; validation_tokens=null "
            "uses the whole text"
        )
        yield Caution("data", True, text)


def _begin_of_text(groups: Sequence[RunGroup]) -> Iterable[Caution]:
    """Yield a note on the tokens around documents, unless all have only end-of-text tokens.

    It is serious if they differ: a model reads text badly whose documents begin otherwise than
    those of its training.
    """
    values = {group.label: _protocol(group.first) for group in groups}
    found = set(values.values())
    if len(found) > 1:
        text = labels_by_value(values)
        yield Caution("data", True, f"documents begin and end with different tokens ({text})")
    elif found != {_protocol(None)}:
        yield Caution("data", False, f"tokens around documents: {found.pop()}")


def _protocol(run: Run | None) -> str:
    """The tokens around documents in the data of a run, as text."""
    begin = None if run is None else run.fact("data.bos_token_id")
    if begin is None:
        return "an end-of-text token after each"
    ends = run is not None and run.fact("data.adds_eos")
    return f"token {begin} before each" + (" and an end-of-text token after it" if ends else "")
