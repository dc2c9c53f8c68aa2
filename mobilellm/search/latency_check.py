"""Measures the models that a search found by predicted latency, in alternation with a reference."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from mobilellm.evaluation.device_profile import DeviceProfile
from mobilellm.evaluation.latency_process import LatencyProcess, LatencyRequest
from mobilellm.models import ModelConfig
from mobilellm.models.shape_name import shape_name
from mobilellm.provenance import device_name
from mobilellm.search.space.constraints import Constraints

ROUNDS = 30
MOST_MODELS = 4
"""The most models that are measured."""
SECONDS = 300.0
"""The longest time of the measurement."""


@dataclass(frozen=True)
class MeasuredLatency:
    """One model, in milliseconds per token under the conditions of the device profile."""

    number: int
    """Of the trial."""
    predicted: float
    measured: float
    """The time of the reference in the profile, multiplied by the ratio that was measured now."""
    limit: float | None

    @property
    def text(self) -> str:
        """`trial 7: 2.18 ms per token, predicted 2.25 (-3 %), meets the limit of 2.3`."""
        error = 100 * (self.measured / self.predicted - 1)
        words = f"trial {self.number}: {self.measured:.3g} ms per token, predicted "
        words += f"{self.predicted:.3g} ({error:+.0f} %)"
        if self.limit is None:
            return words
        is_met = self.measured <= self.limit
        return f"{words}, {'meets' if is_met else 'exceeds'} the limit of {self.limit:g}"


@dataclass(frozen=True)
class LatencyCheck:
    """The measurement, or the reason why there is none."""

    reference: str
    """Shape of the profile that was measured in alternation."""
    models: tuple[MeasuredLatency, ...]
    problem: str | None = None

    @property
    def sentence(self) -> str:
        """The result in words."""
        if self.problem is not None:
            return f"Latencies were not measured: {self.problem}."
        listed = "; ".join(one.text for one in self.models)
        return f"Measured in alternation with {self.reference} of the device profile: {listed}."


def check_latencies(
    constraints: Constraints, models: Sequence[tuple[int, ModelConfig]]
) -> LatencyCheck | None:
    """Measure models that were chosen by their predicted latency.

    Measured in alternation, the ratio of a model to the reference hardly depends on other work on
    the machine. The reference is the shape of the profile whose latency is nearest to that of the
    first model.

    Args:
        constraints: of the search.
        models: number of the trial and shape, the most important first.

    Returns:
        None if the search knows no latency, or there is no model.
    """
    if constraints.latency_profile is None or not models:
        return None
    profile = constraints.latency.profile
    chosen = models[:MOST_MODELS]
    predicted = [constraints.latency.predict(model) for _, model in chosen]
    reference = min(profile.shapes, key=lambda shape: abs(shape.decode_ms_per_token - predicted[0]))
    name = shape_name(reference.model)
    if profile.accelerator != "cpu" or profile.device != device_name("cpu"):
        return LatencyCheck(name, (), f"the profile is of another device, {profile.device}")
    try:
        rounds = _rounds(profile, [reference.model, *(model for _, model in chosen)])
    except RuntimeError as error:
        return LatencyCheck(name, (), f"the measurement failed ({error})")
    first, *others = rounds
    return LatencyCheck(
        name,
        tuple(
            MeasuredLatency(
                number=number,
                predicted=expected,
                measured=reference.decode_ms_per_token
                * statistics.median(a / b for a, b in zip(times, first, strict=True)),
                limit=constraints.max_latency_ms,
            )
            for (number, _), expected, times in zip(chosen, predicted, others, strict=True)
        ),
    )


def _rounds(profile: DeviceProfile, models: Sequence[ModelConfig]) -> tuple[tuple[float, ...], ...]:
    """Milliseconds per token of each model and round.

    Raises:
        RuntimeError: the process failed, or took too long.
    """
    request = LatencyRequest(
        models=tuple(models), threads=profile.threads, context=profile.context,
        decode_tokens=profile.decode_tokens, rounds=ROUNDS,
    )  # fmt: skip
    return LatencyProcess(request).result(SECONDS).rounds
