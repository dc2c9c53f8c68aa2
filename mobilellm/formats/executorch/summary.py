"""What a `.pte` file contains, in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mobilellm.formats.executorch.lowering import num_delegates, num_others
from mobilellm.models.config import ModelConfig
from mobilellm.units import bytes_text, plural


@dataclass(frozen=True)
class ExecutorchExport:
    """A written file."""

    path: Path
    kind: str
    """Type of the matrices."""
    config: ModelConfig
    """Of the model, with the special tokens of its tokenizer."""
    num_weights: int
    """Number of weights in the file; shared blocks and a tied table count once."""
    context: int
    """Tokens that the cache has room for."""
    prefill_tokens: int
    """Tokens that the method `prefill` reads at once."""
    cache_bytes: int
    """Memory of the cache, which is not in the file."""
    operators: Mapping[str, Mapping[str, int]]
    """For each method, the number of its operators by name."""

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size

    def lines(self) -> list[str]:
        """Size and contents, one sentence each."""
        config, count = self.config, self.operators["forward"]
        lines = [
            f"{self.path.name}: {self.kind}, {plural(config.num_layers, 'layer')}, "
            f"{self.num_weights:,} weights, {bytes_text(self.file_bytes)} on disk, "
            f"{8 * self.file_bytes / self.num_weights:.2f} bits per weight",
            f"a cache of {self.context} tokens, which takes {bytes_text(self.cache_bytes)} of "
            f"memory; forward reads one token, prefill {self.prefill_tokens}",
            f"{plural(num_delegates(count), 'part')} computed by XNNPACK and "
            f"{num_others(count)} other operators for one token",
        ]
        if self.kind != "fp32":
            head = "the table and the output head" if config.tie_word_embeddings else "both tables"
            lines.append(f"{head} have 8 bits each, and are stored separately")
        elif config.tie_word_embeddings:
            lines.append("the table is stored once; XNNPACK does not compute the output head")
        if config.compressed_layers:
            lines.append("compressed matrices are written as dense ones")
        return lines

    def text(self) -> str:
        """Describe the file, one sentence a line."""
        first, *others = self.lines()
        start = f"{self.path.parent}/" if self.path.parent != Path() else ""
        return "\n".join([f"{start}{first}", *(f"  {line}" for line in others)])
