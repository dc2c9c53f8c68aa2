"""What a profile measures: cases, and the lengths and rounds that are the same for all of them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

STARTS = ("load_ms", "init_ms", "start_cpu_ms", "first_run_ms")
MEMORY = ("memory_before_bytes", "peak_memory_bytes")
ENERGY = "decode_joules"
BY_PROMPT = ("prefill_ms", "decode_ms", "prefill_cpu_ms", "decode_cpu_ms", ENERGY)
"""What is measured in each round; of `BY_PROMPT` one value for each length of prompt."""


@dataclass(frozen=True, kw_only=True)
class ProfileCase:
    """One model in one engine, with one type of weights and one number of threads."""

    model: str
    """Name of the model."""
    config: Mapping[str, Any]
    """The architecture: `ModelConfig.to_dict()`."""
    weights: str
    """`random` or `trained`."""
    engine: str
    """`torch`, `llamacpp` or `executorch`."""
    kind: str
    """Type of the weights, by the name that the engine's format has for it."""
    threads: int
    path: str
    """The file, or for torch the folder."""
    file_bytes: int
    """Size of the weights' file."""
    expected_bytes: int
    """Its size by arithmetic, without headers and tokenizer."""

    @property
    def name(self) -> str:
        """`llamacpp/q8_0/1 of mobilellm_125m`; unique in a plan."""
        return f"{self.setting} of {self.model}"

    @property
    def setting(self) -> str:
        """`llamacpp/q8_0/1`: engine, type and threads."""
        return f"{self.engine}/{self.kind}/{self.threads}"


@dataclass(frozen=True, kw_only=True)
class ProfilePlan:
    """All cases, which are measured in alternation."""

    cases: tuple[ProfileCase, ...]
    prompt_lengths: tuple[int, ...]
    """Numbers of random tokens that are read at once."""
    decode_tokens: int
    """Tokens that are decoded one by one after each prompt."""
    rounds: int
    """Measurements of each case, after one that is not counted."""

    @property
    def context(self) -> int:
        """Tokens of the KV cache: the longest prompt and what follows it, as a multiple of 32.

        So small changes of the lengths need no new ExecuTorch program, which has a fixed cache.
        """
        return -(-(max(self.prompt_lengths) + self.decode_tokens + 1) // 32) * 32

    @property
    def key(self) -> str:
        """A hash of all that makes measurements comparable; not of the number of rounds."""
        content = asdict(self) | {"rounds": None}
        content["cases"] = [asdict(case) | {"path": None} for case in self.cases]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `plan_from_dict` reads it."""
        return asdict(self)


def plan_from_dict(content: Mapping[str, Any]) -> ProfilePlan:
    """Read what `ProfilePlan.to_dict` wrote."""
    cases: Sequence[Mapping[str, Any]] = content["cases"]
    return ProfilePlan(
        cases=tuple(ProfileCase(**case) for case in cases),
        prompt_lengths=tuple(content["prompt_lengths"]),
        decode_tokens=content["decode_tokens"],
        rounds=content["rounds"],
    )
