"""The result of a profile: a JSON file with every measurement, and its medians."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mobilellm.evaluation.engine_profile.plan import (
    BY_PROMPT,
    ENERGY,
    MEMORY,
    STARTS,
    ProfileCase,
    ProfilePlan,
    plan_from_dict,
)
from mobilellm.evaluation.engine_profile.rounds import Samples
from mobilellm.files import write_text_atomically
from mobilellm.strict_json import find_fault, to_json

KIND = "engine profile"
FORMAT = 1
_OPTIONAL_INT = (int, type(None))
FIELDS: Mapping[str, Any] = {
    "kind": str, "format": int, "device": str, "command": str, "versions": dict,
    "plan": {"prompt_lengths": [int], "decode_tokens": int, "rounds": int,
             "cases": [{"model": str, "config": dict, "weights": str, "engine": str, "kind": str,
                        "threads": int, "path": str, "file_bytes": int, "expected_bytes": int}]},
    "results": [{"case": str,
                 "rounds": {**{name: [float] for name in STARTS},
                            **{name: [_OPTIONAL_INT] for name in MEMORY},
                            **{name: [[float]] for name in BY_PROMPT if name != ENERGY},
                            ENERGY: [[(float, int, type(None))]]}}],
}  # fmt: skip
"""The fields that a file needs, as `strict_json.find_fault` reads them; it has medians besides."""


@dataclass(frozen=True)
class Spread:
    """Median and 95th percentile of one quantity over the rounds."""

    median: float
    p95: float


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """What was measured of one case."""

    case: ProfileCase
    rounds: Mapping[str, Sequence[Any]]
    """For each name of `STARTS` and `MEMORY`, a value per round, and for each of `BY_PROMPT` a list
    (one value per length of prompt) per round. Times are in milliseconds; None: not measured."""

    def values(self, name: str, prompt: int = 0) -> list[float]:
        """One quantity in all rounds; of `BY_PROMPT` for the prompt of this index."""
        rows = self.rounds[name]
        return [row[prompt] for row in rows] if name in BY_PROMPT else list(rows)

    def spread(self, name: str, prompt: int = 0) -> Spread | None:
        """Median and 95th percentile; None if it was not measured."""
        values = [value for value in self.values(name, prompt) if value is not None]
        return spread_of(values) if values else None

    @property
    def start_ms(self) -> list[float]:
        """Milliseconds of loading and initialization together, in all rounds."""
        pairs = zip(self.rounds["load_ms"], self.rounds["init_ms"], strict=True)
        return [load + init for load, init in pairs]

    def comparable_ms(self, name: str, prompt: int = 0) -> list[float]:
        """Times for ratios, in all rounds: with one thread, processor times.

        Other work on the machine lengthens them little. With several threads, which may wait
        actively for each other, they say little, and the times are those that passed.

        Args:
            name: `start` (load and init), `prefill` or `decode`.
            prompt: index of the length of prompt.
        """
        times = self.values(f"{name}_cpu_ms", prompt)
        if self.case.threads == 1 and min(times) > 0:  # 0 on systems with a coarse clock
            return times
        return self.start_ms if name == "start" else self.values(f"{name}_ms", prompt)

    @property
    def processor_share(self) -> float | None:
        """Share of the time of reading and decoding in which a thread had a processor.

        It is below 1 if other work ran too; None with several threads.
        """
        if self.case.threads > 1:
            return None
        pairs = [(f"{name}_cpu_ms", f"{name}_ms") for name in ("prefill", "decode")]
        busy = sum(t for cpu, _ in pairs for row in self.rounds[cpu] for t in row)
        return min(1.0, busy / sum(t for _, ms in pairs for row in self.rounds[ms] for t in row))

    @property
    def peak_memory_bytes(self) -> int | None:
        """Most memory of a process, pages of mapped files included; None: not measured."""
        return max((v for v in self.rounds["peak_memory_bytes"] if v is not None), default=None)

    @property
    def memory_before_bytes(self) -> int | None:
        """Memory of a process with Python and the engine's package, before it opened the model."""
        return max((v for v in self.rounds["memory_before_bytes"] if v is not None), default=None)


@dataclass(frozen=True, kw_only=True)
class EngineProfile:
    """The measurements of all cases of a plan on one device."""

    device: str
    """Name of the processor."""
    command: str
    versions: Mapping[str, str]
    plan: ProfilePlan
    results: tuple[CaseResult, ...]

    @property
    def num_rounds(self) -> int:
        """Rounds of every case."""
        return len(self.results[0].rounds["load_ms"])

    def to_json(self) -> str:
        """The content of the file, with medians for readers of the file."""
        lengths = self.plan.prompt_lengths
        results = [
            {
                "case": result.case.name,
                "summary": {
                    name: _plain(result.spread(name)) for name in (*STARTS, *MEMORY)
                } | {
                    name: [_plain(result.spread(name, i)) for i in range(len(lengths))]
                    for name in BY_PROMPT
                },
                "rounds": dict(result.rounds),
            }
            for result in self.results
        ]  # fmt: skip
        head = {
            "kind": KIND, "format": FORMAT, "device": self.device, "command": self.command,
            "versions": dict(self.versions), "plan": self.plan.to_dict(),
        }  # fmt: skip
        return to_json({**head, "results": results}) + "\n"


def spread_of(values: Sequence[float]) -> Spread:
    """Median and 95th percentile, linear between the nearest values."""
    if len(values) == 1:
        return Spread(values[0], values[0])
    return Spread(
        statistics.median(values), statistics.quantiles(values, n=20, method="inclusive")[-1]
    )


def median_ratio(values: Sequence[float], reference: Sequence[float]) -> float:
    """The median over the rounds of the ratio within a round, which other work affects little."""
    return statistics.median(a / b for a, b in zip(values, reference, strict=False))


def profile_of(
    plan: ProfilePlan, samples: Samples, *, device: str, command: str, versions: Mapping[str, str]
) -> EngineProfile:
    """Collect the samples of `rounds.measure`, without the warm-up."""
    results = []
    for case in plan.cases:
        rounds = samples[case.name][1 : plan.rounds + 1]
        names = (*STARTS, *MEMORY, *BY_PROMPT)
        results.append(
            CaseResult(case=case, rounds={name: [one[name] for one in rounds] for name in names})
        )
    return EngineProfile(
        device=device, command=command, versions=versions, plan=plan, results=tuple(results)
    )


def write_result(profile: EngineProfile, path: Path) -> None:
    """Write the file."""
    write_text_atomically(path, profile.to_json())


def read_result(path: Path) -> EngineProfile:
    """Read the file of a profile, of this machine or of a bundle that ran elsewhere.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not such a profile, or one of another version.
    """
    remedy = "give a file that `mobilellm device-profile MODEL … --out FILE` or a bundle wrote"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; {remedy}")
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{path} is not JSON; {remedy}") from None
    fault = find_fault(content, FIELDS) or _fault_of(content)
    if fault is not None:
        raise ValueError(f"{path} is not the result of a profile of engines ({fault}); {remedy}")
    plan = plan_from_dict(content["plan"])
    cases = {case.name: case for case in plan.cases}
    results = tuple(
        CaseResult(case=cases[one["case"]], rounds=one["rounds"]) for one in content["results"]
    )
    head = {name: content[name] for name in ("device", "command", "versions")}
    return EngineProfile(**head, plan=plan, results=results)


def _fault_of(content: Mapping[str, Any]) -> str | None:
    """What is wrong with a file that has all fields in their types."""
    if content["kind"] != KIND:
        return f"its kind is {content['kind']!r}"
    if content["format"] != FORMAT:
        return f"its format is {content['format']}, and {FORMAT} is required"
    try:
        plan = plan_from_dict(content["plan"])
    except TypeError as error:
        return str(error)
    if [one["case"] for one in content["results"]] != [case.name for case in plan.cases]:
        return "its results are not those of the cases in its plan"
    every = [one["rounds"] for one in content["results"]]
    if len({len(values) for rounds in every for values in rounds.values()}) > 1:
        return "it does not have the same number of rounds for everything"
    faults = (_rounds_fault(rounds, len(plan.prompt_lengths)) for rounds in every)
    return next((fault for fault in faults if fault), None)


def _rounds_fault(rounds: Mapping[str, Sequence[Any]], num_lengths: int) -> str | None:
    """What is wrong with the measurements of a case."""
    if not rounds["load_ms"]:
        return "a case has no round"
    if any(len(row) != num_lengths for name in BY_PROMPT for row in rounds[name]):
        return "a case does not have a value for each length of prompt"
    by_prompt = (
        time for name in ("prefill_ms", "decode_ms") for row in rounds[name] for time in row
    )
    if not all(math.isfinite(time) and time > 0 for time in (*rounds["load_ms"], *by_prompt)):
        return "a time is not above 0"
    return None


def _plain(spread: Spread | None) -> dict[str, float] | None:
    return None if spread is None else asdict(spread)
