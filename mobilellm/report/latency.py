"""Decode latencies of the configurations, measured side by side once and kept beside the report."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mobilellm.accounting import count_parameters
from mobilellm.evaluation.latency_process import LatencyProcess, LatencyRequest
from mobilellm.files import write_text_atomically
from mobilellm.models import ModelConfig
from mobilellm.provenance import device_name, versions
from mobilellm.report.caution import shorten_list
from mobilellm.report.run_groups import RunGroup
from mobilellm.report.runs import Run
from mobilellm.strict_json import to_json
from mobilellm.units import count_text, plural

FILE = "latency.json"
"""In the folder of the report."""
AUTOMATIC_SHAPES = 8
AUTOMATIC_PARAMETERS = 30e6
"""More shapes, or more executed parameters in all, are only measured on request."""
AUTOMATIC_SECONDS = 30.0
"""A measurement that nobody asked for ends after this time."""
AUTOMATIC = {"decode_tokens": 4, "rounds": 5}
REQUESTED = {"decode_tokens": 16, "rounds": 21}
BUSY = 0.9
"""With a smaller share of a processor, the report warns of other work on the machine."""
CONTEXT = 64
"""Tokens in the KV cache, if the runs were not matched at another context."""


@dataclass(frozen=True, kw_only=True)
class LatencyConditions:
    """What latencies depend on, besides the model."""

    device: str
    threads: int
    context: int
    torch: str | None
    """Version of torch."""
    setting: str | None = None
    """Engine, type of the weights and threads in results of a device; None: torch, 32 bits."""
    file: str | None = None
    """The results of a device; None: measured for this report."""

    @property
    def remedy(self) -> str:
        """The command that measures again."""
        return "compare --latency" if self.file is None else "run.py on the device"

    def __str__(self) -> str:
        """`2 threads of AMD EPYC, 64 tokens of context`, and the engine with the file."""
        text = (
            f"{plural(self.threads, 'thread')} of {self.device}, {self.context} tokens of context"
        )
        return text if self.file is None else f"{text}, {self.setting} in {self.file}"


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """Latencies of several shapes from one measurement, or the reason why there are none."""

    conditions: LatencyConditions | None = None
    rounds: Mapping[str, tuple[float, ...]]
    """By `shape_key`: milliseconds per decoded token in each round; the rounds of all shapes were
    measured in alternation."""
    processor_share: float = 1.0
    """Share of the time in which the measurement had a processor for itself."""
    missing: tuple[str, ...] = ()
    """Shapes that the results of a device do not have."""
    reason: str = ""
    """Why the latency was not measured, and how it is; empty if it was, or does not matter."""

    def __str__(self) -> str:
        """The conditions in a sentence, with a warning if the machine had other work."""
        text = f"Measured side by side at batch size 1, with {self.conditions}."
        if self.missing:
            text += f" There are no times of {shorten_list(list(self.missing))}."
        if self.processor_share >= BUSY:
            return text
        return (
            f"{text} Other work took {100 * (1 - self.processor_share):.0f} % of the time, so the "
            "milliseconds are too large, and ratios are less exact; "
            f"{self.conditions and self.conditions.remedy} measures again."
        )

    def attached(self, groups: Sequence[RunGroup]) -> tuple[RunGroup, ...]:
        """The same configurations, with their latencies."""
        return tuple(
            replace(group, latency=self.rounds.get(shape_key(group.model), ())) for group in groups
        )


class LatencyMeasurement:
    """The latencies of some shapes: read from the report's folder, or being measured."""

    def __init__(self, runs: Sequence[Run], folder: Path, *, wanted: bool | None) -> None:
        """Find the latencies, or start to measure them.

        Args:
            runs: all runs of the report.
            folder: of the report.
            wanted: True: measure anew, with more rounds; False: do not measure; None: use what was
                measured before, or measure if depths differ and it takes a few seconds.
        """
        self._path, self._wanted = folder / FILE, wanted
        self._models = {shape_key(run.model): run.model for run in runs}
        self._conditions = _conditions(runs)
        self._process: LatencyProcess | None = None
        self._found = Latencies(rounds={})
        matters = len({model.num_layers for model in self._models.values()}) > 1
        if not self._models or wanted is False or not (matters or wanted):
            if wanted is False and matters:
                self._found = Latencies(rounds={}, reason="--no-latency was given")
            return
        known = None if wanted else self._read()
        if known is not None:
            self._found = known
        elif not wanted and (reason := self._too_large()):
            self._found = Latencies(rounds={}, reason=f"{reason}; --latency measures it")
        else:
            self._process = LatencyProcess(
                LatencyRequest(
                    models=tuple(self._models.values()),
                    threads=self._conditions.threads,
                    context=self._conditions.context,
                    **(REQUESTED if wanted else AUTOMATIC),
                )
            )

    def result(self) -> Latencies:
        """The latencies; a measurement is waited for, and kept in the folder of the report."""
        if self._process is None:
            return self._found
        try:
            times = self._process.result(None if self._wanted else AUTOMATIC_SECONDS)
        except RuntimeError as error:
            return Latencies(rounds={}, reason=f"{error}; --latency measures it without a limit")
        found = Latencies(
            conditions=self._conditions,
            rounds=dict(zip(self._models, times.rounds, strict=True)),
            processor_share=times.processor_share,
        )
        content = asdict(found)
        write_text_atomically(self._path, to_json(content) + "\n")
        return found

    def _read(self) -> Latencies | None:
        """What was measured before, if it covers all shapes under the same conditions."""
        try:
            content: Any = json.loads(self._path.read_text(encoding="utf-8"))
            if content["conditions"] != asdict(self._conditions):
                return None
            rounds = {key: tuple(map(float, content["rounds"][key])) for key in self._models}
            share = float(content["processor_share"])
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return Latencies(conditions=self._conditions, rounds=rounds, processor_share=share)

    def _too_large(self) -> str:
        """Why the shapes are not measured without being asked to; empty if they are."""
        sizes = [count_parameters(model).executed for model in self._models.values()]
        if len(sizes) <= AUTOMATIC_SHAPES and sum(sizes) <= AUTOMATIC_PARAMETERS:
            return ""
        return (
            f"there are {plural(len(sizes), 'shape')} of up to {count_text(max(sizes))} parameters"
        )


def shape_key(model: ModelConfig) -> str:
    """A short hash of an architecture."""
    text = json.dumps(model.to_dict(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _conditions(runs: Sequence[Run]) -> LatencyConditions:
    """Those under which the runs were matched, if there is one; else one thread, 64 tokens."""
    matched = {
        (threads, context)
        for run in runs
        if (threads := run.number("matched.profile.threads"))
        and (context := run.number("matched.profile.context"))
    }
    threads, context = next(iter(matched)) if len(matched) == 1 else (1, CONTEXT)
    room = min((run.model.max_position_embeddings for run in runs), default=CONTEXT)
    longest = max(1, room - max(AUTOMATIC["decode_tokens"], REQUESTED["decode_tokens"]))
    return LatencyConditions(
        device=device_name("cpu"),
        threads=int(threads),
        context=min(int(context), longest),
        torch=versions().get("torch"),
    )
