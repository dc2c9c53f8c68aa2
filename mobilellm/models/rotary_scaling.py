"""Scaling of the rotary frequencies for contexts longer than those of pretraining.

This module does not import torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mobilellm.models.checks import check_choice
from mobilellm.ranges import MAX_INDEX, Range, check_fields

KINDS = ("llama3", "linear")
_FACTOR = Range(at_least=1, cap=1e9)
_FREQUENCY_FACTOR = Range(above=0, cap=1e9)


@dataclass(frozen=True, kw_only=True)
class RotaryScaling:
    """How the rotary frequencies differ from those of `rope_theta`; the names are Hugging Face's.

    `linear` divides every frequency by `factor`. `llama3` divides low frequencies only: those with
    a wavelength of more than `original_max_position_embeddings` / `low_freq_factor` positions. It
    keeps those with less than `original_max_position_embeddings` / `high_freq_factor`, and
    interpolates between the two.

    Source: Grattafiori et al. 2024, The Llama 3 Herd of Models, arXiv:2407.21783, and the code that
    was published with Llama 3.1; Chen et al. 2023, arXiv:2306.15595, for `linear`.

    Raises:
        ValueError: a value is out of range, missing for `llama3`, or without effect for `linear`.
    """

    rope_type: str
    """`llama3` or `linear`."""
    factor: float
    """Divisor of the scaled frequencies."""
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_position_embeddings: int | None = None
    """Context length of pretraining in tokens."""

    def __post_init__(self) -> None:
        """Check every field."""
        check_choice("rope_scaling.rope_type", self.rope_type, KINDS)
        check_fields(
            self, "rope_scaling.", factor=_FACTOR, low_freq_factor=_FREQUENCY_FACTOR,
            high_freq_factor=_FREQUENCY_FACTOR,
            original_max_position_embeddings=Range(at_least=1, cap=MAX_INDEX),
        )  # fmt: skip
        names = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        for name in names:
            if self.rope_type == "llama3" and getattr(self, name) is None:
                raise ValueError(f"rope_scaling.{name} is required for rope_type='llama3'; give it")
            if self.rope_type == "linear" and getattr(self, name) is not None:
                raise ValueError(
                    f"rope_scaling.{name} has no effect on rope_type='linear'; leave it out"
                )
        if self.rope_type == "llama3" and not self.low_freq_factor < self.high_freq_factor:  # pyright: ignore[reportOperatorIssue]
            raise ValueError(
                f"rope_scaling.low_freq_factor={self.low_freq_factor} must be below "
                f"high_freq_factor={self.high_freq_factor}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without the fields that the kind does not have."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def parse_rotary_scaling(values: Any) -> RotaryScaling | None:
    """The scaling that a mapping describes, or an object, which is returned unchanged.

    Raises:
        ValueError: it is not a mapping, or a field is unknown, missing or invalid.
    """
    if values is None or isinstance(values, RotaryScaling):
        return values
    if not isinstance(values, Mapping):
        raise ValueError(
            f"rope_scaling={values!r} must be null or a mapping such as {{rope_type: linear, "
            "factor: 4}"
        )
    names = [field.name for field in fields(RotaryScaling)]
    for name in values:
        check_choice("rope_scaling field", name, names)
    for name in ("rope_type", "factor"):
        if name not in values:
            raise ValueError(f"rope_scaling.{name} is missing; give it")
    return RotaryScaling(**values)
