"""What a quantized model stores: which tensors in which number format, and bits per weight."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mobilellm.accounting.storage import StoredTensors, stored_tensors
from mobilellm.compression.tables import Column, make_table
from mobilellm.layers import LayerShape
from mobilellm.layers.number_format import NumberFormat
from mobilellm.layers.quantized import QuantizedShape
from mobilellm.models import ModelConfig

if TYPE_CHECKING:
    from rich.table import Table


def storage_table(config: ModelConfig, float_bits: int) -> "Table":
    """A table with one row per kind of tensor, quantized or not, and the whole file.

    Args:
        config: the model.
        float_bits: bits of a weight that is not quantized, 16 or 32.
    """
    tensors = stored_tensors(config, float_bits)
    table = make_table(
        f"in the file: {_bits(tensors):.3f} bits per weight",
        Column("tensors"), Column("stored as", folds=True),
        *(Column(title, "right") for title in ("weights", "bytes", "bits per weight")),
    )  # fmt: skip
    for is_quantized in (True, False):
        for one in tensors:
            if one.is_quantized == is_quantized:
                name = f"{one.number} {one.kind}" if one.number > 1 else one.kind
                stored_as = one.stored_as if is_quantized else f"{one.stored_as}, not quantized"
                table.add_row(name, stored_as, *_numbers([one]))
        table.add_section()
    table.add_row("the whole file", "", *_numbers(tensors))
    return table


def storage_line(config: ModelConfig, float_bits: int) -> str:
    """The same in one line: what is quantized, what is not, and the bits per weight of the file."""
    tensors = stored_tensors(config, float_bits)
    formats: dict[str, list[str]] = {}
    for one in tensors:
        stored_as = one.stored_as if one.is_quantized else "not quantized"
        formats.setdefault(stored_as, []).append(one.kind)
    parts = [f"{', '.join(kinds)}: {stored_as}" for stored_as, kinds in formats.items()]
    size = sum(one.bits for one in tensors) // 8
    return f"{'; '.join(parts)}; {_bits(tensors):.3f} bits per weight, {size:,} bytes in all"


def embedding_alternative(config: ModelConfig, float_bits: int) -> str:
    """What the file would take if the embedding were, or were not, quantized; in one line."""
    tables = [name for name in ("embedding", "head") if name in config.matrix_sizes]
    quantized = any(isinstance(config.layer_shape(name), QuantizedShape) for name in tables)
    layers: dict[str, LayerShape] = {
        name: shape for name, shape in config.layer_shapes.items() if name not in tables
    }
    if not quantized:
        layers |= dict.fromkeys(tables, QuantizedShape(quantized=NumberFormat(bits=8)))
    other = stored_tensors(replace(config, compressed_layers=layers), float_bits)
    choice = "null, in floats" if quantized else "8"
    return (
        f"with embedding_bits={choice}: {_bits(other):.3f} bits per weight, "
        f"{sum(one.bits for one in other) // 8:,} bytes"
    )


def _numbers(tensors: Sequence[StoredTensors]) -> tuple[str, str, str]:
    """Weights, bytes and bits per weight, as text."""
    weights = sum(one.parameters for one in tensors)
    amount = sum(one.bits for one in tensors)
    return f"{weights:,}", f"{-(-amount // 8):,}", f"{amount / weights:.3f}"


def _bits(tensors: Sequence[StoredTensors]) -> float:
    """Bits per weight of all tensors together."""
    return sum(one.bits for one in tensors) / sum(one.parameters for one in tensors)
