"""Decides which settings of config.yaml make two runs different configurations."""

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from mobilellm.recorded_config import TARGET, class_name
from mobilellm.report.ancestry import start_of
from mobilellm.report.runs import Run
from mobilellm.run_settings import NOT_IDENTITY, flat_config
from mobilellm.units import bytes_text

NOT_COMPARED = (
    *NOT_IDENTITY,
    "seed", "model", "data", "callbacks", "micro_batch_size", "validation_interval_tokens",
    "optimizer.learning_rate", "init_from", "extend_from",
    "learning_rate_probe", "learning_rate_probe_factors", "learning_rate_probe_share",
    "learning_rate_probe_seed", "learning_rate_probe_widenings", "trainer", "experiment", "variant",
)  # fmt: skip
"""Settings that do not change the result, or whose values are read from summary.json instead."""

DATA_SETTINGS = ("data.document_mask", "data.tasks")
"""Settings of the group `data` that change the result without changing the prepared data."""

LIGHTNING_CALLBACKS = frozenset(
    {
        "DeviceStatsMonitor", "LearningRateMonitor", "ModelCheckpoint", "ModelSummary",
        "RichModelSummary", "RichProgressBar", "TQDMProgressBar",
    }
)  # fmt: skip
"""Lightning's own callbacks that do not change the trained model."""

EARLIER_CALLBACKS = frozenset(
    {
        "CheckpointCallback", "GracefulStopCallback", "LabelAccuracyCallback", "ProgressCallback",
        "RunSummaryCallback", "ThroughputCallback",
    }
)  # fmt: skip
"""The same of this project, for runs of versions that did not record `passive_callbacks`. New
callbacks are not added here: their class has an attribute, see `pipeline.identity`."""

START = "starts from"
"""Key of `settings` for the folder of the initial weights."""
EXTENDED = "extended"
"""Key of `settings` for how a finished run was continued: `re-warmed` (the learning rate had
decayed and was raised again) or `extended` (continued from before the decay)."""
GUARD = "loss_guard"
FRACTIONS = {
    Fraction(1, 2): "½", Fraction(1, 3): "⅓", Fraction(2, 3): "⅔", Fraction(1, 4): "¼",
    Fraction(3, 4): "¾", Fraction(1, 8): "⅛",
}  # fmt: skip


def settings(run: Run) -> dict[str, Any]:
    """Return all settings that distinguish configurations, by dotted name.

    Settings of the model are left out, since summary.json contains the model itself. The folder of
    the initial weights has the key `START`.
    """
    flat = flat_config(run.config)
    found = {name: value for name, value in flat.items() if not _is_below(name, NOT_COMPARED)}
    found |= {name: flat[name] for name in DATA_SETTINGS if name in flat}
    found |= flat_config(_changing_callbacks(run), "callbacks")
    # A version in which a setting did not exist yet behaves as null does now.
    found = {
        name: _without_module(name, value) for name, value in found.items() if value is not None
    }
    if how := extension_text(run):
        found[EXTENDED] = how
    start = start_of(run)
    return found | {START: start.folder} if start.folder else found


def _without_module(name: str, value: Any) -> Any:
    """The value; of a `_target_` only the class name, since the class may have been moved."""
    return class_name(value) if name.endswith(TARGET) else value


def extension_text(run: Run) -> str:
    """Say how the run continued a finished one: `re-warmed`, `extended`, or empty if it did not."""
    if run.fact("extended_from") is None:
        return ""
    return "re-warmed" if run.fact("rewarmed") else "extended"


def configured_model(run: Run) -> dict[str, Any]:
    """Return the configuration of the model before any compression during the run.

    The compressed model can depend on the calibration text, and therefore on the seed.
    """
    given = run.config.get("model")
    if compression_node(run.config) is not None and isinstance(given, Mapping) and given:
        return flat_config(given)
    return run.model.to_dict()


def compression_node(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the group `compression` of config.yaml; None without compression."""
    return _node(config, "compression")


def compression_text(run: Run) -> str:
    """Describe the compression of a run: `low rank ½`, `wanda ½ zero`; empty for a dense model."""
    node = compression_node(run.config)
    if node is not None:
        return recipe_text(node, _chosen(run, "compression"))
    return stored_text(run.model)


def recipe_text(recipe: Mapping[str, Any], name: str | None = None) -> str:
    """Describe a compression recipe in a few words.

    Args:
        recipe: its settings, as in config.yaml.
        name: of its file in conf/compression, if it is known.
    """
    kind = class_name(recipe.get(TARGET, ""))
    if "sparsity" in recipe:
        pattern = str(recipe.get("pattern", "unstructured"))
        share = f"{share_text(recipe['sparsity'])} zero" if pattern == "unstructured" else pattern
        return f"{recipe.get('method') or name or 'pruned'} {share}"
    kept = [
        f"{unit} {share_text(recipe[f'keep_{unit}'])}"
        for unit in ("channels", "heads", "blocks")
        if recipe.get(f"keep_{unit}") is not None
    ]
    if kept:
        return f"structured {', '.join(kept)}"
    words = (name or _factorization_name(recipe) or kind).replace("_", " ")
    return f"{words} {budget_text(recipe.get('budget') or {})}".strip()


def budget_text(budget: Mapping[str, Any]) -> str:
    """Format the budget of a factorisation: `½`, `½ of the model`, `20 MB`; empty without limit."""
    if budget.get("ratio") is not None:
        return share_text(budget["ratio"])
    if budget.get("stored_ratio") is not None:
        return f"{share_text(budget['stored_ratio'])} of the model"
    if budget.get("max_bytes") is not None:
        return bytes_text(budget["max_bytes"])
    if budget.get("max_decode_bytes") is not None:
        return f"{bytes_text(budget['max_decode_bytes'])} per token"
    return ""


def stored_text(model: Any) -> str:
    """List the kinds of compressed matrices of a model, e.g. `factorised`; empty without any."""
    return " and ".join(sorted({shape.kind for shape in model.layer_shapes.values()}))


def distillation_text(run: Run) -> str:
    """Name the distillation of a run, e.g. `forward_kl`, or its losses; empty without it."""
    node = _node(run.config, "distillation")
    if node is None:
        return ""
    losses = node.get("losses")
    kind = class_name(node.get(TARGET, "")).removesuffix("Callback")
    named = ", ".join(losses) if isinstance(losses, Mapping) else kind
    return _chosen(run, "distillation") or named or "distillation"


def parametrization_text(run: Run) -> str:
    """Return the name of the parametrisation, e.g. `completep`; empty for `standard`."""
    node = _node(run.config, "parametrization")
    return "" if node is None else str(node["_target_"]).rpartition(".")[2]


def differing_settings(configurations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the settings that differ between configurations, the shortest first.

    If the classes of a part differ (`_target_`), the part is named instead of its settings.
    """
    names = sorted({name for flat in configurations for name in flat})
    differing = [
        name
        for name in names
        if len({canonical_text(flat.get(name)) for flat in configurations}) > 1
    ]
    parts = [name.removesuffix("._target_") for name in differing if name.endswith("._target_")]
    outer = [part for part in parts if not _is_below(part, [p for p in parts if p != part])]
    plain = [
        name
        for name in differing
        if not name.rpartition(".")[2].startswith("_") and not _is_below(name, parts)
    ]
    named = sorted((*outer, *plain), key=lambda name: (name.count("."), name))
    everywhere = [name for name in named if all(_has(flat, name) for flat in configurations)]
    by_common = {tuple(setting_text(flat, name) for name in everywhere) for flat in configurations}
    by_all = {tuple(setting_text(flat, name) for name in named) for flat in configurations}
    # Settings that only some configurations have are named only if the others do not suffice.
    return everywhere if len(by_common) == len(by_all) else named


def _has(flat: Mapping[str, Any], name: str) -> bool:
    return name in flat or f"{name}._target_" in flat


def setting_text(flat: Mapping[str, Any], name: str) -> str:
    """Format the value of a setting, or the class name of a part; empty if it is not set."""
    if f"{name}._target_" in flat:
        return class_name(flat[f"{name}.{TARGET}"]).removesuffix("Callback")
    if name not in flat:
        return ""
    value = flat[name]
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and abs(value) >= 1e4:
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value)
    return str(value).rstrip("/").rpartition("/")[2]


def share_text(value: Any) -> str:
    """Format a fraction as `½`, or as `37.5 %` if there is no character for it."""
    try:
        share = float(value)
    except (TypeError, ValueError):
        return str(value)
    return FRACTIONS.get(Fraction(share).limit_denominator(1000), f"{100 * share:.3g} %")


def canonical_text(value: Any) -> str:
    """Return a text that is equal for equal values: 10000 and 1e4 have the same text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value))
    return json.dumps(value, sort_keys=True, default=str)


def _changing_callbacks(run: Run) -> dict[str, Any]:
    """The callbacks that can change the trained model.

    A loss guard that only stops runs has no effect on a run that finished, so it is ignored.
    """
    nodes = run.config.get("callbacks")
    nodes = nodes if isinstance(nodes, Mapping) else {}
    passive = run.fact("passive_callbacks")
    classes = LIGHTNING_CALLBACKS | (EARLIER_CALLBACKS if passive is None else frozenset())
    found = {
        name: node
        for name, node in nodes.items()
        if isinstance(node, Mapping)
        and name not in (passive or ())
        and class_name(node.get(TARGET, "")) not in classes
    }
    guard = found.get(GUARD, {})
    if guard.get("action", "stop") == "stop":
        found[GUARD] = {"action": "stop"}
    elif str(guard.get("_target_", "")).endswith(".LossGuardCallback"):
        found[GUARD] = {key: value for key, value in guard.items() if key != "_target_"}
    return found


def _node(config: Mapping[str, Any], group: str) -> Mapping[str, Any] | None:
    node = config.get(group)
    return node if isinstance(node, Mapping) and node.get("_target_") else None


def _chosen(run: Run, group: str) -> str | None:
    """The name that was chosen in a configuration group, if summary.json has it."""
    name = run.fact(f"choices.{group}")
    return str(name) if name not in (None, "none") else None


def _factorization_name(recipe: Mapping[str, Any]) -> str:
    """The name in conf/compression of this factorisation; empty for other recipes."""
    if "parts" not in recipe:
        return ""
    if recipe["parts"] is None:
        return "searched"
    if all(part.get("right") is None for part in recipe["parts"]):
        return "low rank"
    is_permuted = recipe.get("permutations") not in (None, "none")
    return "permuted kronecker" if is_permuted else "kronecker"


def _is_below(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)
