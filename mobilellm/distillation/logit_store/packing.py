"""A teacher's k most likely tokens as a few bytes per token of text.

Of each token, the k indices lie first and the k probabilities after them. A probability p is
stored as the square root of -log p, in equal steps up to a largest value: steps are finest where
p is large, so that the small rest 1 - p of a sure teacher survives. Rounding can leave the k
probabilities with a sum above 1; then reading divides them by it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mobilellm.distillation.losses.targets import TopK

# Bits, and the largest -log p in nats: smaller probabilities are stored as this one.
_FORMS = {"fixed16": (16, 32.0), "fixed8": (8, 16.0)}
PRECISIONS = tuple(_FORMS)
PACKINGS = ("plain", "bits")
_LARGEST_UINT16 = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How the top k of a vocabulary are written.

    Raises:
        ValueError: k out of range, an unknown precision or packing.
    """

    vocab_size: int
    """Indices are below this."""
    k: int
    """Tokens kept."""
    precision: str = "fixed16"
    """Of each probability. Largest error of log p, in nats: `fixed16` 8.7e-5 times the square root
    of -log p (2.8e-5 at p = 0.9, 4.9e-4 at the smallest p, 1.3e-14); `fixed8` 0.016 times that
    (0.0052 at p = 0.9, 0.063 at the smallest, 1.1e-7)."""
    packing: str = "plain"
    """`plain`: indices in 2 bytes each, in 4 above 65,536 tokens; `bits`: in as many bits as the
    vocabulary needs."""

    def __post_init__(self) -> None:
        """Check the choices."""
        for name, choices in (("precision", PRECISIONS), ("packing", PACKINGS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not known; use one of {', '.join(choices)}"
                )
        for name in ("vocab_size", "k"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
        if self.k > self.vocab_size:
            raise ValueError(
                f"k={self.k} is above the vocabulary of {self.vocab_size} tokens; use at most that"
            )

    @property
    def index_bits(self) -> int:
        """Bits of one index."""
        if self.packing == "bits":
            return max(1, (self.vocab_size - 1).bit_length())
        return 16 if self.vocab_size <= _LARGEST_UINT16 else 32

    @property
    def bytes_per_token(self) -> int:
        """Bytes per token of text."""
        return self._index_bytes + self.k * _FORMS[self.precision][0] // 8

    def encode(self, top: TopK) -> Tensor:
        """Pack.

        Args:
            top: (..., k), on any device.

        Returns:
            uint8 (..., bytes_per_token).

        Raises:
            ValueError: another number of tokens than k.
        """
        if top.indices.shape[-1] != self.k:
            raise ValueError(f"{top.indices.shape[-1]} tokens were given where k={self.k}")
        if self.packing == "bits":
            indices = _pack_bits(top.indices, self.index_bits)
        else:
            indices = _to_bytes(top.indices, self.index_bits)
        levels = self._levels(top.log_probabilities)
        return torch.cat([indices, _to_bytes(levels, _FORMS[self.precision][0])], -1)

    def decode(self, packed: Tensor, *, temperature: float = 1.0) -> TopK:
        """Unpack.

        Args:
            packed: uint8 (..., bytes_per_token).
            temperature: at which the probabilities were taken.
        """
        indices, levels = packed.split(
            [self._index_bytes, packed.shape[-1] - self._index_bytes], -1
        )
        if self.packing == "bits":
            indices = _unpack_bits(indices, self.index_bits, self.k)
        else:
            indices = _from_bytes(indices, self.index_bits).long()
        values = self._values(_from_bytes(levels, _FORMS[self.precision][0]))
        return TopK(indices, values, temperature)

    def rounded(self, top: TopK) -> TopK:
        """What `decode` gives of what `encode` makes, without packing."""
        values = self._values(self._levels(top.log_probabilities))
        return TopK(top.indices, values, top.temperature)

    @property
    def _index_bytes(self) -> int:
        return (self.k * self.index_bits + 7) // 8

    @property
    def _step(self) -> float:
        bits, largest = _FORMS[self.precision]
        return largest**0.5 / ((1 << bits) - 1)

    def _levels(self, log_probabilities: Tensor) -> Tensor:
        """The numbers that are stored, int32."""
        largest = _FORMS[self.precision][1]
        positive = log_probabilities.float().neg().clamp(0, largest)
        return (positive.sqrt() / self._step).round().to(torch.int32)

    def _values(self, levels: Tensor) -> Tensor:
        """Log-probabilities whose sum of probabilities is at most 1, float32."""
        values = levels.float().mul_(self._step).square_().neg_()
        return values.sub_(values.logsumexp(-1, keepdim=True).clamp_(min=0))


def _to_bytes(numbers: Tensor, bits: int) -> Tensor:
    """(..., k) below 2**bits -> uint8 (..., k * bits / 8), little-endian."""
    kind = {8: torch.uint8, 16: torch.int16, 32: torch.int32}[bits]
    return numbers.to(kind).contiguous().view(torch.uint8)


def _from_bytes(packed: Tensor, bits: int) -> Tensor:
    """The way back, int32."""
    kind = {8: torch.uint8, 16: torch.int16, 32: torch.int32}[bits]
    numbers = packed.contiguous().view(kind).to(torch.int32)
    return numbers.bitwise_and_(0xFFFF) if bits == 16 else numbers


def _pack_bits(numbers: Tensor, bits: int) -> Tensor:
    """(..., k) below 2**bits -> uint8 (..., bytes), lowest bit first, the last byte padded."""
    places = torch.arange(bits, device=numbers.device, dtype=torch.int32)
    single = (numbers.to(torch.int32).unsqueeze(-1) >> places).to(torch.uint8) & 1
    single = single.flatten(-2)
    single = torch.nn.functional.pad(single, (0, -single.shape[-1] % 8)).unflatten(-1, (-1, 8))
    packed = single[..., 0].clone()
    for bit in range(1, 8):
        packed |= single[..., bit] << bit
    return packed


def _unpack_bits(packed: Tensor, bits: int, k: int) -> Tensor:
    """The way back, int64 (..., k): each number lies in a few bytes, shifted by less than one."""
    begin = torch.arange(k, device=packed.device) * bits
    count = (bits + 14) // 8
    padded = torch.nn.functional.pad(packed, (0, count - 1)).long()
    numbers = sum(padded[..., begin // 8 + byte] << (8 * byte) for byte in range(count))
    return (numbers >> begin % 8) & ((1 << bits) - 1)  # pyright: ignore[reportReturnType]
