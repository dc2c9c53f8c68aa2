"""Makes a plan of shape and tokens from the runs of a ladder, for `mobilellm plan`."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mobilellm.models import ModelConfig
from mobilellm.report.ladder_family import LadderFamily
from mobilellm.report.law_source import read_law
from mobilellm.report.shape_plan_text import PlanReport
from mobilellm.search.latency import LatencyModel
from mobilellm.search.law_validation import hold_out_largest
from mobilellm.search.matching import latency_model
from mobilellm.search.shape_plan import Limits, plan_shape, tokens_by_flops

DEFAULT_BITS = 16


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """A compute budget and limits; None: not given.

    Raises:
        ValueError: a number is not above 0, not exactly one budget is given, or an option lacks
            another one that it needs.
    """

    source: Path
    """Folder of a ladder, or comparison.json."""
    flops: float | None = None
    """FLOPs of training."""
    hours: float | None = None
    """Wall time of training."""
    flops_per_second: float | None = None
    """Training FLOPs per second of the device for `hours`; default: as the ladder's runs."""
    max_bytes: float | None = None
    """Bytes of the weights, and of the KV cache of `context` tokens if it is given."""
    bits: int | None = None
    """Bits per weight for `max_bytes`; default: 16."""
    max_latency_ms: float | None = None
    """Milliseconds per decoded token on the device of `latency_profile`."""
    latency_profile: Path | None = None
    """File of a device profile."""
    context: int | None = None
    """Tokens that the model must read."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not (value > 0 and math.isfinite(value)):
                name = field.name.replace("_", "-")
                raise ValueError(f"--{name} {value:g} must be a number above 0")
        given = [name for name in ("flops", "hours") if getattr(self, name) is not None]
        if len(given) != 1:
            what = "both are given" if given else "neither is given"
            raise ValueError(f"the budget is --flops or --hours, and {what}; give one of them")
        if self.flops_per_second is not None and self.hours is None:
            raise ValueError("--flops-per-second is for --hours; leave it out with --flops")
        if self.bits is not None and self.max_bytes is None:
            raise ValueError("--bits is for --max-bytes; leave it out")
        if self.bits is not None and self.bits > 32:
            raise ValueError(f"--bits {self.bits} must be between 1 and 32")
        if (self.max_latency_ms is None) != (self.latency_profile is None):
            raise ValueError(
                "--max-latency-ms and --latency-profile belong together; measure a device profile "
                "once with mobilellm device-profile --out FILE"
            )


def make_plan(request: PlanRequest) -> PlanReport:
    """Find the shape and the tokens with the lowest expected loss.

    Raises:
        FileNotFoundError, ValueError: there is no law, or no shape meets the limits; the message
            says why.
    """
    law, family = read_law(request.source)
    family = _with_context(family, request.context)
    limits = Limits(
        max_bytes=request.max_bytes, bits=request.bits or DEFAULT_BITS, context=request.context,
        max_latency_ms=request.max_latency_ms, latency=_latency(request, family),
    )  # fmt: skip
    plan = plan_shape(law, family.model, _tokens_of(request, family), limits)
    held_out = hold_out_largest(law.runs)
    return PlanReport(plan=plan, family=family, limits=limits, held_out=held_out)


def _latency(request: PlanRequest, family: LadderFamily) -> LatencyModel | None:
    """The latency model of the device profile, which must have the vocabulary and the context."""
    if request.latency_profile is None:
        return None
    found = latency_model(request.latency_profile)
    vocabulary = family.model.fields["vocab_size"]
    found.check_covers(num_layers=None, hidden_size=None, vocab_size=vocabulary)
    measured = found.profile.context
    if request.context is not None and request.context != measured:
        raise ValueError(
            f"--context {request.context} differs from that of the device profile, {measured}; "
            f"measure one with mobilellm device-profile --context {request.context}"
        )
    return found


def _with_context(family: LadderFamily, context: int | None) -> LadderFamily:
    """The family with a context that is long enough."""
    fields = dict(family.model.fields)
    if context is None or context <= fields["max_position_embeddings"]:
        return family
    model = dataclasses.replace(family.model, fields=fields | {"max_position_embeddings": context})
    return dataclasses.replace(family, model=model)


def _tokens_of(request: PlanRequest, family: LadderFamily) -> Callable[[ModelConfig], float]:
    length = family.sequence_length
    if request.flops is not None:
        return tokens_by_flops(request.flops, length)
    seconds = 3600 * (request.hours or 0.0)
    if request.flops_per_second is not None:
        return tokens_by_flops(seconds * request.flops_per_second, length)
    rate = family.rate
    if rate is None:
        raise ValueError(
            "the runs of the ladder did not record their speed; give --flops-per-second, or --flops"
        )
    return lambda config: seconds / rate.seconds_per_token(config, length)
