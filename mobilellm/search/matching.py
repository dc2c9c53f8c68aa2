"""The quantities of a model that a budget can limit."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.accounting import count_parameters, flops_per_token, weight_bits
from mobilellm.evaluation.device_profile import read_profile
from mobilellm.models import ModelConfig
from mobilellm.models.config import check_choice
from mobilellm.paths import user_path
from mobilellm.provenance import device_name
from mobilellm.ranges import Range, check_fields

if TYPE_CHECKING:
    from mobilellm.search.latency import LatencyModel

UNITS = {
    "stored": "stored parameters",
    "body": "body parameters",
    "flops": "forward FLOPs per token",
    "bytes": "bytes of weights",
    "latency": "ms per token",
}
"""By match; the first is the default."""
MATCHES = tuple(UNITS)
BELONGS_TO = {
    "bits": "bytes",
    "embedding_bits": "bytes",
    "latency_profile": "latency",
    "latency_device": "latency",
}
"""Settings that have an effect with one match only."""

BITS = Range(at_least=1, cap=64, remedy="4 and 8 are common")
COUNT = Range(at_least=1, cap=2**24)


@dataclass(frozen=True, kw_only=True)
class Matching:
    """The quantity that meets a budget, and what it depends on.

    Raises:
        ValueError: `match` is unknown, a number is out of range, a setting is missing or belongs to
            another match, or the device profile is of another device.
        FileNotFoundError: there is no device profile.
    """

    match: str = "stored"
    """`stored` parameters, parameters of the `body` (without embeddings), `flops` (forward, per
    token), `bytes` of the stored weights at `bits`, or `latency`: milliseconds per decoded token,
    predicted from a device profile."""
    sequence_length: int | None = None
    """Number of tokens for `flops`; default: max_position_embeddings."""
    bits: int | None = None
    """Bits per weight of the matrices for `bytes`; see `accounting.weight_bits`."""
    embedding_bits: int | None = None
    """Bits per weight of the embedding and of an untied head for `bytes`; default: `bits`."""
    latency_profile: str | None = None
    """File of the device profile for `latency`; `mobilellm device-profile` measures it."""
    latency_device: str | None = None
    """The device of that profile, if it is not this machine."""

    def __post_init__(self) -> None:
        """Check the choices."""
        check_fields(self, sequence_length=COUNT, bits=BITS, embedding_bits=BITS)
        check_choice("match", self.match, MATCHES)
        for name, match in BELONGS_TO.items():
            if getattr(self, name) is not None and self.match != match:
                raise ValueError(
                    f"{name}={getattr(self, name)} has no effect with match={self.match}; use "
                    f"match={match}, or leave it out"
                )
        if self.match == "bytes" and self.bits is None:
            raise ValueError("match=bytes requires the bits per weight; give bits, e.g. bits=4")
        if self.match == "latency":
            if self.latency_profile is None:
                raise ValueError(
                    "match=latency requires a device profile; measure it once with `mobilellm "
                    "device-profile --out FILE`, and give latency_profile=FILE"
                )
            self._check_device()

    @property
    def unit(self) -> str:
        """`stored parameters`, `bytes of weights at 4 bits`, `ms per token`."""
        at = f" at {self.bits} bits" if self.match == "bytes" else ""
        return f"{UNITS[self.match]}{at}"

    @functools.cached_property
    def latency(self) -> "LatencyModel":
        """The latency model of the device profile.

        Raises:
            ValueError: the file is not a profile, or too small.
            FileNotFoundError: there is no such file.
        """
        return latency_model(user_path(self.latency_profile or ""))

    def measure(self, config: ModelConfig) -> float:
        """The value of the matched quantity; a whole number, except for `bytes` and `latency`."""
        if self.match == "latency":
            return self.latency.predict(config)
        if self.match == "bytes":
            return weight_bits(config, self.bits or 0, embedding_bits=self.embedding_bits) / 8
        if self.match == "flops":
            length = self.sequence_length or config.max_position_embeddings
            return flops_per_token(config, length).forward
        counts = count_parameters(config)
        return counts.stored if self.match == "stored" else counts.body

    def text(self, amount: float) -> str:
        """The amount with its unit: `1,000,000 stored parameters`, `2.5 ms per token`."""
        number = f"{amount:.4g}" if self.match == "latency" else f"{amount:,.0f}"
        return f"{number} {self.unit}"

    def _check_device(self) -> None:
        profile = self.latency.profile
        here = device_name(profile.accelerator if self.latency_device is None else "cpu")
        expected = here if self.latency_device is None else self.latency_device
        if profile.device != expected:
            given = "this machine is" if self.latency_device is None else "latency_device is"
            raise ValueError(
                f"latency_profile={self.latency_profile} was measured on {profile.device!r}, but "
                f"{given} {expected!r}; measure a profile on that device, or give latency_device="
                f"'{profile.device}' to match the latency on the device of the profile"
            )


def matched_facts(settings: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    """What a model of a budget has in common with others of that budget, for JSON.

    Args:
        settings: the node `model` of a configuration, of `model=by_budget`.
        config: the model.

    Returns:
        `budget`, `match`, `unit`, `reached` and `deviation` (relative); for latency also the
        `profile`: its hash, conditions and error.

    Raises:
        ValueError, FileNotFoundError: see `Matching`.
    """
    matching, budget = matching_of(settings), float(settings["budget"])
    reached = matching.measure(config)
    facts = {
        "budget": budget if matching.match == "latency" else round(budget),
        "match": matching.match,
        "unit": matching.unit,
        "reached": reached,
        "deviation": reached / budget - 1,
    }
    if matching.match != "latency":
        return facts
    profile = matching.latency.profile
    return facts | {
        "profile": {
            "hash": profile.content_hash,
            "device": profile.device,
            "threads": profile.threads,
            "context": profile.context,
            "error": matching.latency.error_text,
        }
    }


def matching_of(settings: Mapping[str, Any]) -> Matching:
    """The matching that a node of `model=by_budget` describes; other settings are ignored.

    Raises:
        ValueError, FileNotFoundError: see `Matching`.
    """
    names = Matching.__dataclass_fields__
    return Matching(**{str(name): value for name, value in settings.items() if name in names})


def latency_model(path: Path) -> "LatencyModel":
    """The latency model of a profile; a file that has not changed is read once.

    Raises:
        ValueError, FileNotFoundError: see `read_profile` and `LatencyModel`.
    """
    changed = path.stat().st_mtime_ns if path.is_file() else 0
    return _latency_model(path, changed)


@functools.lru_cache(maxsize=32)
def _latency_model(path: Path, _changed: int) -> "LatencyModel":
    # Imports numpy, which no other budget needs.
    from mobilellm.search.latency import LatencyModel

    try:
        return LatencyModel(read_profile(path))
    except ValueError as error:
        text = str(error)
        raise ValueError(text if str(path) in text else f"{path}: {text}") from error
