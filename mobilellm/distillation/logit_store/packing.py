"""Encode the k most likely next tokens of a teacher in a few bytes per token of text.

For each token of text, the k token ids come first and the k probabilities after them. A probability
p is stored as the square root of -log p, rounded to equal steps up to a largest value. The steps
are finest for large p, so that the small remainder 1 - p of a confident teacher is kept. If
rounding makes the sum of the k probabilities exceed 1, decoding divides them by the sum. The
weights of sampled tokens, which sum to 1, are stored likewise and always divided by their sum.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mobilellm.distillation.losses.targets import TopK

# Bits per probability, and the largest -log p in nats, at which smaller probabilities are clamped.
_FORMS = {"fixed16": (16, 32.0), "fixed8": (8, 16.0)}
PRECISIONS = tuple(_FORMS)
PACKINGS = ("plain", "bits")
_LARGEST_UINT16 = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Packing:
    """The encoding of the top k of a vocabulary.

    Raises:
        ValueError: k is out of range, or the precision or packing is unknown.
    """

    vocab_size: int
    """Vocabulary size of the teacher."""
    k: int
    """Number of tokens that are kept."""
    precision: str = "fixed16"
    """Number format of a probability. The largest error of log p in nats is 8.7e-5 sqrt(-log p) for
    `fixed16` (2.8e-5 at p = 0.9, 4.9e-4 at the smallest p, 1.3e-14), and 0.016 sqrt(-log p) for
    `fixed8` (0.0052 at p = 0.9, 0.063 at the smallest p, 1.1e-7)."""
    packing: str = "plain"
    """`plain`: a token id takes 2 bytes, or 4 if vocab_size is above 65,536; `bits`: it takes as
    many bits as the vocabulary needs."""
    is_sample: bool = False
    """Whether the tokens are a random sample, whose weights sum to 1."""

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
            raise ValueError(f"k={self.k} must be at most vocab_size={self.vocab_size}; lower k")

    @property
    def index_bits(self) -> int:
        """Bits per token id."""
        if self.packing == "bits":
            return max(1, (self.vocab_size - 1).bit_length())
        return 16 if self.vocab_size <= _LARGEST_UINT16 else 32

    @property
    def bytes_per_token(self) -> int:
        """Bytes per token of text."""
        return self._index_bytes + self.k * _FORMS[self.precision][0] // 8

    def encode(self, top: TopK) -> Tensor:
        """Encode the top k tokens of each position.

        Args:
            top: (..., k), on any device.

        Returns:
            uint8 (..., bytes_per_token).

        Raises:
            ValueError: `top` does not have k tokens.
        """
        if top.indices.shape[-1] != self.k:
            raise ValueError(
                f"top has {top.indices.shape[-1]} tokens, but k={self.k}; give k tokens"
            )
        if self.packing == "bits":
            indices = _pack_bits(top.indices, self.index_bits)
        else:
            indices = _to_bytes(top.indices, self.index_bits)
        levels = self._levels(top.log_probabilities)
        return torch.cat([indices, _to_bytes(levels, _FORMS[self.precision][0])], -1)

    def decode(self, packed: Tensor, *, temperature: float = 1.0) -> TopK:
        """Invert `encode`, up to rounding.

        Args:
            packed: uint8 (..., bytes_per_token).
            temperature: temperature of the probabilities.
        """
        indices, levels = packed.split(
            [self._index_bytes, packed.shape[-1] - self._index_bytes], -1
        )
        if self.packing == "bits":
            indices = _unpack_bits(indices, self.index_bits, self.k)
        else:
            indices = _from_bytes(indices, self.index_bits).long()
        values = self._values(_from_bytes(levels, _FORMS[self.precision][0]))
        return TopK(indices, values, temperature, self.is_sample)

    def rounded(self, top: TopK) -> TopK:
        """The result of `decode(encode(top))`, computed without encoding."""
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
        """The stored integers (..., k), int32."""
        largest = _FORMS[self.precision][1]
        positive = log_probabilities.float().neg().clamp(0, largest)
        return (positive.sqrt() / self._step).round().to(torch.int32)

    def _values(self, levels: Tensor) -> Tensor:
        """Log-probabilities (..., k), float32; the sum of the probabilities is at most 1."""
        values = levels.float().mul_(self._step).square_().neg_()
        excess = values.logsumexp(-1, keepdim=True)
        return values.sub_(excess if self.is_sample else excess.clamp_(min=0))


def _to_bytes(numbers: Tensor, bits: int) -> Tensor:
    """Integers (..., k) below 2**bits to uint8 (..., k * bits / 8), little-endian."""
    kind = {8: torch.uint8, 16: torch.int16, 32: torch.int32}[bits]
    return numbers.to(kind).contiguous().view(torch.uint8)


def _from_bytes(packed: Tensor, bits: int) -> Tensor:
    """The inverse of `_to_bytes`, int32 (..., k)."""
    kind = {8: torch.uint8, 16: torch.int16, 32: torch.int32}[bits]
    numbers = packed.contiguous().view(kind).to(torch.int32)
    return numbers.bitwise_and_(0xFFFF) if bits == 16 else numbers


def _pack_bits(numbers: Tensor, bits: int) -> Tensor:
    """Integers (..., k) below 2**bits to uint8 (..., bytes), lowest bit first, zero-padded."""
    shifts = torch.arange(bits, device=numbers.device, dtype=torch.int32)
    single = (numbers.to(torch.int32).unsqueeze(-1) >> shifts).to(torch.uint8) & 1
    single = single.flatten(-2)
    single = torch.nn.functional.pad(single, (0, -single.shape[-1] % 8)).unflatten(-1, (-1, 8))
    packed = single[..., 0].clone()
    for bit in range(1, 8):
        packed |= single[..., bit] << bit
    return packed


def _unpack_bits(packed: Tensor, bits: int, k: int) -> Tensor:
    """The inverse of `_pack_bits`, int64 (..., k)."""
    begin = torch.arange(k, device=packed.device) * bits
    count = (bits + 14) // 8
    padded = torch.nn.functional.pad(packed, (0, count - 1)).long()
    numbers = sum(padded[..., begin // 8 + byte] << (8 * byte) for byte in range(count))
    return (numbers >> begin % 8) & ((1 << bits) - 1)  # pyright: ignore[reportReturnType]
