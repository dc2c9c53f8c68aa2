"""The README.md of an exported model: what it is, and what was measured about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilellm.accounting import count_parameters
from mobilellm.accounting.explain import compressed_kinds
from mobilellm.models.config import ModelConfig
from mobilellm.models.rotary_scaling import RotaryScaling
from mobilellm.report.measured_results import measured_sections
from mobilellm.units import plural
from mobilellm.version import __version__

CARD = "README.md"
LICENCE = (
    "Not stated. Add the licence of the weights, and those of the data that they were trained on, "
    "before you pass the model on."
)


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """What a folder contains, for its card."""

    name: str
    """Of the model."""
    format: str
    """In words, such as `a GGUF file for llama.cpp`."""
    written: Sequence[str]
    """Sentences on how the weights are stored."""
    usage: str
    """How to run the model, in Markdown."""
    library: str | None = None
    """The value of `library_name` in the card's metadata; None: it has no metadata."""
    rounded: str | None = None
    """What the weights were rounded to, such as `q4_0`; None: they were not rounded."""


def model_card(config: ModelConfig, exported: ExportedModel, folder: Path, model_hash: str) -> str:
    """Write the card of an exported model, in Markdown.

    Every number is computed from the architecture or read from a file of the model's folder; what
    was not measured is not in the card.

    Args:
        config: of the model.
        exported: the files that the card lies beside.
        folder: of the model before the export, or of its run, with summary.json, evaluation.json
            and compression.json where they exist.
        model_hash: of the model before the export; evaluations of other weights are left out.

    Raises:
        ValueError: a file of the folder is damaged.
    """
    metadata = []
    if exported.library is not None:
        lines = f"library_name: {exported.library}\npipeline_tag: text-generation"
        metadata = [f"---\n{lines}\n---"]
    measured = measured_sections(folder, model_hash)
    if measured and exported.rounded is not None:
        measured = [
            f"The measurements below are those of the weights before they were rounded to "
            f"{exported.rounded}. What the rounding changes was not measured.",
            *measured,
        ]
    return "\n\n".join(
        [
            *metadata,
            f"# {exported.name}",
            f"A language model of {count_parameters(config).stored:,} parameters, written as "
            f"{exported.format} by `mobilellm` {__version__}.",
            "## Architecture",
            "\n".join(architecture_rows(config)),
            "## Files",
            "\n".join(f"- {line}" for line in exported.written),
            exported.usage,
            "## Measurements",
            *(measured or ["The folder of the model has no measurements."]),
            "## Licence",
            LICENCE,
        ]
    ) + "\n"  # fmt: skip


def architecture_rows(config: ModelConfig) -> list[str]:
    """The rows of a Markdown table."""
    counts = count_parameters(config)
    nonzero = getattr(counts, "nonzero", None)
    scaling = config.rope_scaling
    rows = {
        "layers": _layers(config),
        "hidden size": config.hidden_size,
        "feed-forward": f"{config.feed_forward}, {_sizes(config.intermediate_size)} wide",
        "attention heads": f"{_sizes(config.num_attention_heads)} of width {config.head_dim}",
        "key-value heads": _sizes(config.num_key_value_heads),
        "keys and values of repeated blocks": "those of the first application"
        if config.is_shared and config.share_kv == "first" else None,
        "QK-norm": None if config.qk_norm == "none" else config.qk_norm,
        "vocabulary": f"{config.vocab_size:,} tokens",
        "output head": "the token embedding (tied)" if config.tie_word_embeddings else "its own",
        "context": f"{config.max_position_embeddings:,} tokens",
        "rotary base": f"{config.rope_theta:g}",
        "rotary scaling": ", ".join(f"{k} {v}" for k, v in scaling.to_dict().items())
        if isinstance(scaling, RotaryScaling) else None,
        "compressed matrices": "; ".join(
            f"{row['compressed']} of {row['of']} {row['matrix']} ({row['stored_as']})"
            for row in compressed_kinds(config)
        ) or None,
        "stored parameters": f"{counts.stored:,}",
        "of these in the embedding": f"{counts.embedding:,}",
        "of these in the body": f"{counts.body:,}",
        "of these not masked": None if nonzero is None else f"{nonzero:,}",
        "executed parameters": f"{counts.executed:,} (a shared block counts once per application)"
        if config.is_shared else None,
    }  # fmt: skip
    found = [f"| {name} | {value} |" for name, value in rows.items() if value is not None]
    return ["| | |", "|---|---|", *found]


def _layers(config: ModelConfig) -> str:
    if not config.is_shared:
        return str(config.num_layers)
    order = " ".join(map(str, config.layer_order))
    return (
        f"{config.num_layers}, which run {plural(config.num_blocks, 'stored block')} in the order "
        f"{order} (layer_sharing {config.layer_sharing})"
    )


def _sizes(sizes: object) -> str:
    return ", ".join(map(str, sizes)) if isinstance(sizes, tuple) else str(sizes)
