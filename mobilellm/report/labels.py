"""Short labels that distinguish configurations: `24×64`, `12×80 low rank ½ + forward_kl`."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from mobilellm.models.config import ModelConfig
from mobilellm.models.shape_name import shape_name
from mobilellm.report.run_settings import (
    EXTENDED,
    START,
    compression_text,
    differing_settings,
    distillation_text,
    parametrization_text,
    setting_text,
    settings,
)
from mobilellm.report.runs import Run
from mobilellm.units import count_text, rate_text

MAX_SETTINGS = 3
"""The most settings in a label."""
MAX_CHARACTERS = 24
"""The most characters of the value of a setting."""


def make_labels(runs: Sequence[Run], *, with_rates: bool = True) -> list[str]:
    """Make a short label for each run; all labels are different.

    A label begins with depth, width and compression. Traits of the model and of training, and
    finally at most `MAX_SETTINGS` settings, are added only if runs with the same label differ in
    them. Labels that are still equal are numbered.

    Args:
        runs: one of each configuration.
        with_rates: whether the learning rate is one of the traits.
    """
    labels = [_base_label(run) for run in runs]
    used = [trait for trait in _TRAITS if with_rates or trait is not _rate]
    for describe in (*map(_each, used), _differing):
        subsets: dict[str, list[int]] = defaultdict(list)
        for index, label in enumerate(labels):
            subsets[label].append(index)
        for indices in subsets.values():
            traits = describe([runs[index] for index in indices])
            if len(set(traits)) > 1:
                for index, trait in zip(indices, traits, strict=True):
                    labels[index] = f"{labels[index]} {trait}".strip()
    return _numbered(labels)


def _numbered(labels: Sequence[str]) -> list[str]:
    """The labels, with a number added to those that are still equal."""
    seen: Counter[str] = Counter()
    numbered = []
    for label in labels:
        seen[label] += 1
        numbered.append(f"{label} #{seen[label]}" if labels.count(label) > 1 else label)
    return numbered


def _base_label(run: Run) -> str:
    return f"{shape_name(run.model)} {compression_text(run)}".strip()


def _model_trait(text: Callable[[ModelConfig], str]) -> Callable[[Run], str]:
    return lambda run: text(run.model)


def _each(trait: Callable[[Run], str]) -> Callable[[Sequence[Run]], list[str]]:
    return lambda runs: [trait(run) for run in runs]


def _differing(runs: Sequence[Run]) -> list[str]:
    """`gradient_clip_norm=0.5`, `from base`, `schedule wsd`: at most `MAX_SETTINGS` of them."""
    flat = [settings(run) for run in runs]
    names = differing_settings(flat)[:MAX_SETTINGS]
    return [" ".join(filter(None, (_setting(one, name, flat) for name in names))) for one in flat]


def _setting(one: dict[str, Any], name: str, every: Sequence[dict[str, Any]]) -> str:
    if name == START:
        return f"from {_shorten(setting_text(one, name))}" if name in one else "from scratch"
    text = _shorten(setting_text(one, name))
    if name == EXTENDED:
        return text or "single run"
    if any(f"{name}._target_" in other for other in every):
        return f"{_short_name(name)} {text}" if text else f"no {_short_name(name)}"
    return f"{_short_name(name)}={text}" if text else ""


def _short_name(name: str) -> str:
    """The last part of a setting's name; if it is a single word, the last two parts."""
    parts = name.split(".")
    return ".".join(parts[-2:]) if "_" not in parts[-1] and len(parts) > 2 else parts[-1]


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"


def _size_text(value: Any) -> str:
    if not isinstance(value, tuple):
        return str(value)
    return str(value[0]) if len(set(value)) == 1 else f"{min(value)}–{max(value)}"


def _rate(run: Run) -> str:
    return f"lr {rate_text(run.number('learning_rate'))}"


def _distilled(run: Run) -> str:
    name = distillation_text(run)
    return f"+ {name}" if name else ""


# In the order in which they are added; the text of the default value is empty.
_TRAITS: tuple[Callable[[Run], str], ...] = (
    _model_trait(lambda m: m.layer_sharing if m.is_shared else ""),
    _model_trait(lambda m: "first kv" if m.share_kv == "first" and m.is_shared else ""),
    _model_trait(lambda m: "" if m.feed_forward == "swiglu" else m.feed_forward),
    _model_trait(lambda m: "" if m.tie_word_embeddings else "untied"),
    _model_trait(lambda m: "" if m.qk_norm == "none" else f"qk {m.qk_norm}"),
    _model_trait(
        lambda m: f"{_size_text(m.num_attention_heads)}h{_size_text(m.num_key_value_heads)}kv"
    ),
    _model_trait(lambda m: f"head {m.head_dim}"),
    _model_trait(lambda m: f"ffn {_size_text(m.intermediate_size)}"),
    _model_trait(lambda m: f"vocab {m.vocab_size}"),
    _distilled,
    lambda run: f"{count_text(run.number('max_tokens') or run.tokens)} tokens",
    parametrization_text,
    lambda run: (run.optimizer or "").partition(" ")[0],
    lambda run: f"seq {run.sequence_length}",
    lambda run: f"batch {count_text(run.tokens_per_step)}",
    # After the settings that the recipe rule and a user's choice of a rate depend on.
    _rate,
    lambda run: str(run.fact("precision") or ""),
    lambda run: str(run.fact("data.name") or ""),
)
