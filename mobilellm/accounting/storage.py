"""How the tensors of a model are stored, and how many bits its file takes per weight."""

from dataclasses import dataclass

from mobilellm.accounting.parameters import count_parameters
from mobilellm.layers import DENSE, LayerShape, summarize
from mobilellm.models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class StoredTensors:
    """All matrices of one kind, such as `q_proj`, that are stored alike; or all norms."""

    kind: str
    number: int
    """Number of matrices; 0 for the norms."""
    stored_as: str
    """A form such as `int4 in groups of 32` or `32-bit floats`."""
    is_quantized: bool
    parameters: int
    bits: int
    """Bits in the file of the model, with scales, zero points, masks and permutations."""

    @property
    def bits_per_weight(self) -> float:
        """Bits in the file per parameter."""
        return self.bits / self.parameters


def stored_tensors(config: ModelConfig, float_bits: int) -> tuple[StoredTensors, ...]:
    """Describe all tensors of a model: kinds of matrices in the model's order, and the norms.

    The sum of all `bits` is the size of the tensors in the file, without its header.

    Args:
        config: the model.
        float_bits: bits of a weight that is not quantized, 16 or 32.
    """
    kinds: dict[tuple[str, type[LayerShape]], list[str]] = {}
    for name in config.matrix_sizes:
        shape = config.layer_shapes.get(name, DENSE)
        kinds.setdefault((name.rpartition(".")[2], type(shape)), []).append(name)
    matrices = [_matrices(config, kind, names, float_bits) for (kind, _), names in kinds.items()]
    norms = count_parameters(config).stored - sum(kind.parameters for kind in matrices)
    return *matrices, StoredTensors(
        kind="norms",
        number=0,
        stored_as=f"{float_bits}-bit floats",
        is_quantized=False,
        parameters=norms,
        bits=norms * float_bits,
    )


def effective_bits(config: ModelConfig, float_bits: int) -> float:
    """Bits in the file of a model per stored parameter; arguments as for `stored_tensors`."""
    total = sum(tensors.bits for tensors in stored_tensors(config, float_bits))
    return total / count_parameters(config).stored


def is_quantized(config: ModelConfig) -> bool:
    """Whether any matrix is stored as packed codes."""
    return any(tensors.is_quantized for tensors in stored_tensors(config, 32))


def _matrices(config: ModelConfig, kind: str, names: list[str], float_bits: int) -> StoredTensors:
    sizes = [config.matrix_sizes[name] for name in names]
    shapes = [config.layer_shapes.get(name, DENSE) for name in names]
    pairs = list(zip(shapes, sizes, strict=True))
    text = summarize(shapes, sizes)
    return StoredTensors(
        kind=kind,
        number=len(names),
        stored_as=f"{float_bits}-bit floats" if shapes[0] is DENSE else text,
        is_quantized=all(shape.cost(size).packed_bytes is not None for shape, size in pairs),
        parameters=sum(shape.cost(size).parameters for shape, size in pairs),
        bits=sum(shape.file_bits(size, float_bits) for shape, size in pairs),
    )
