"""What a GGUF file contains, in words."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from mobilellm.formats.gguf.tensor_types import tensor_bytes
from mobilellm.models.config import ModelConfig
from mobilellm.units import bytes_text, plural


@dataclass(frozen=True)
class GgufExport:
    """A written file, and how each of its tensors is stored."""

    path: Path
    architecture: str
    """Its name in GGUF."""
    config: ModelConfig
    """Of the model, with the special tokens of its tokenizer."""
    sizes: Mapping[str, tuple[int, ...]]
    """Shapes of the tensors by their names in the file."""
    types: Mapping[str, str]
    """Types of the tensors by name."""

    @property
    def num_weights(self) -> int:
        """Number of weights in the file; a shared block counts once per application."""
        return sum(map(prod, self.sizes.values()))

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors, without metadata and alignment."""
        return sum(tensor_bytes(size, self.types[name]) for name, size in self.sizes.items())

    @property
    def bits_per_weight(self) -> float:
        """Bits of all tensors, scales of quantized blocks included, divided by their weights."""
        return 8 * self.tensor_bytes / self.num_weights

    @property
    def repeated_bytes(self) -> int:
        """Bytes of the layers that repeat a shared block."""
        seen: set[int] = set()
        repeated: set[int] = set()
        for layer, index in enumerate(self.config.layer_order):
            (repeated if index in seen else set()).add(layer)
            seen.add(index)
        return sum(
            tensor_bytes(size, self.types[name])
            for name, size in self.sizes.items()
            if _layer_of(name) in repeated
        )

    def text(self) -> str:
        """Describe the file, one sentence a line."""
        first, *others = self.lines(self.path.stat().st_size)
        return "\n".join([first, *(f"  {line}" for line in others)])

    def lines(self, file_bytes: int) -> list[str]:
        """Size, types of the tensors, and what unrolling costs.

        Args:
            file_bytes: size of the file.
        """
        config = self.config
        lines = [
            f"{self.path}: architecture {self.architecture}, {plural(config.num_layers, 'layer')}, "
            f"{self.num_weights:,} weights, {bytes_text(file_bytes)} on disk, "
            f"{self.bits_per_weight:.2f} bits per weight"
        ]
        for kind in dict.fromkeys(self.types.values()):
            names = [name for name, own in self.types.items() if own == kind]
            weights = sum(prod(self.sizes[name]) for name in names)
            lines.append(f"{kind}: {_grouped(names)}, {weights:,} weights")
        if config.is_shared:
            lines.append(
                f"its {plural(config.num_blocks, 'shared block')} are written once per "
                f"application, which takes {bytes_text(self.repeated_bytes)} more"
            )
        if config.compressed_layers:
            lines.append("its compressed matrices are written as dense ones")
        return lines


def _layer_of(name: str) -> int | None:
    found = re.match(r"blk\.(\d+)\.", name)
    return None if found is None else int(found[1])


def _grouped(names: list[str]) -> str:
    """Names of tensors, with those of all layers together: `token_embd, blk.*.attn_q (30)`."""
    parts = (re.sub(r"^blk\.\d+\.", "blk.*.", name.removesuffix(".weight")) for name in names)
    return ", ".join(
        f"{part} ({count})" if part.startswith("blk.") else part
        for part, count in Counter(parts).items()
    )
