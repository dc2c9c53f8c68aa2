"""A plan of shape and tokens in sentences, as plain data, and as a command to train it."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mobilellm.accounting import count_parameters, flops_per_token, weight_bytes
from mobilellm.command_names import command_for
from mobilellm.models.shape_name import shape_name
from mobilellm.report.ladder_family import LadderFamily
from mobilellm.search.law_validation import HeldOutSize
from mobilellm.search.loss_law import Prediction
from mobilellm.search.shape_plan import Candidate, Limits, ShapePlan
from mobilellm.units import bytes_text, count_text, duration_text, si_text

SHOWN = 5
"""Largest number of other depths that are listed."""
BUDGET_DEFAULTS = {
    "block_repeats": 1, "layer_sharing": "immediate", "share_kv": "own",
    "tie_word_embeddings": True, "max_position_embeddings": 2048, "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5, "feed_forward": "swiglu", "qk_norm": "none",
}  # fmt: skip
"""Fields of conf/model/by_budget.yaml that the command leaves out if they are equal."""


@dataclass(frozen=True, kw_only=True)
class PlanReport:
    """A plan, and what it rests on."""

    plan: ShapePlan
    family: LadderFamily
    limits: Limits
    held_out: HeldOutSize | None
    """The largest size of the ladder, predicted from the others; None if they are too few."""

    def lines(self) -> list[str]:
        """The recommendation, how far it is extrapolated, the other depths, and the command."""
        others = self.plan.others[:SHOWN]
        return [
            self._recommendation(),
            f"Expected loss: {self.plan.expected} nats per token, with the 95 % interval of a run.",
            *self._latency(),
            *self._context(),
            _range_line(self.plan),
            *self._held_out(),
            _decision_line(self.plan),
            *(_other_line(other, difference) for other, difference in others),
            "",
            "To train it:",
            f"  {train_command(self.plan.best, self.family)}",
        ]

    def record(self) -> dict[str, Any]:
        """The plan as plain data for JSON."""
        plan, family = self.plan, self.family
        return {
            "recommended": _candidate_record(plan.best, family)
            | {"loss": asdict(plan.expected), "command": train_command(plan.best, family)},
            "outside_fitted_range": dict(plan.outside),
            "held_out_error": None if self.held_out is None else self.held_out.error,
            "is_decided": plan.is_decided,
            "other_depths": [
                _candidate_record(other, family) | {"difference": asdict(difference)}
                for other, difference in plan.others
            ],
        }

    def _recommendation(self) -> str:
        best, family, bits = self.plan.best, self.family, self.limits.bits
        counts = count_parameters(best.config)
        flops = flops_per_token(best.config, family.sequence_length).training * best.tokens
        time = "" if family.rate is None else (
            f", about {duration_text(_seconds(best, family))} on {family.device} as in the ladder"
        )  # fmt: skip
        return (
            f"Recommended: {_shape(best)}, {count_text(counts.body)} body parameters "
            f"({count_text(counts.stored)} stored, "
            f"{bytes_text(weight_bytes(best.config, bits))} at {bits} bits), on "
            f"{count_text(best.tokens)} tokens ({best.tokens / best.body:.3g} per body parameter): "
            f"{si_text(flops)}FLOPs{time}."
        )

    def _latency(self) -> list[str]:
        latency = self.limits.latency
        if latency is None:
            return []
        return [
            f"Predicted decode latency: {latency.predict(self.plan.best.config):.3g} ms per token "
            f"on {latency.profile.conditions}; {latency.error_text}. Only shapes in the range of "
            f"the device profile were considered: {latency.range_text}."
        ]

    def _context(self) -> list[str]:
        context, length = self.limits.context, self.family.sequence_length
        if context is None or context <= length:
            return []
        return [
            f"The law holds for windows of {length} tokens, as in the ladder. A context of "
            f"{context} tokens counts for the limits; the command does not train for it."
        ]

    def _held_out(self) -> list[str]:
        held = self.held_out
        if held is None:
            return []
        return [
            f"Fitted without the largest size, {count_text(held.body)} body parameters, the law "
            f"predicts its losses with a mean error of {100 * held.error:.2f} %."
        ]


def _range_line(plan: ShapePlan) -> str:
    outside = {name: factor for name, factor in plan.outside.items() if factor > 1.0005}
    if not outside:
        return "All of it lies within the range of the runs that the law was fitted to."
    parts = [f"{name} by a factor of {factor:.3g}" for name, factor in outside.items()]
    return (
        f"Outside the range of the runs that the law was fitted to: {', '.join(parts)}. The "
        "interval does not contain the error of a law that fails there."
    )


def _decision_line(plan: ShapePlan) -> str:
    if not plan.others:
        return "No other depth meets the limits."
    if plan.is_decided:
        return "The law tells this depth from all others, whose best shapes have a higher loss, by:"
    equal = [_shape(other) for other, difference in plan.others if difference.low <= 0]
    return (
        f"The law cannot tell it from {', '.join(equal)}: the interval of the difference contains "
        "0. The best shapes of other depths have a higher loss, by:"
    )


def _other_line(other: Candidate, difference: Prediction) -> str:
    return (
        f"  {_shape(other)} on {count_text(other.tokens)} tokens: {difference.loss:+.4f} "
        f"({difference.low:+.4f} to {difference.high:+.4f}) nats per token"
    )


def train_command(best: Candidate, family: LadderFamily) -> str:
    """The command that trains the shape with the settings of the ladder."""
    config, fields = best.config, family.model.fields
    changed = [
        f"model.{key}={_text(value)}"
        for key, value in fields.items()
        if key in BUDGET_DEFAULTS and value != BUDGET_DEFAULTS[key]
    ]
    given = [o for o in family.overrides if not o.startswith("hydra")]
    settings: Sequence[str] = [
        *given, "model=by_budget", "model.match=body", f"model.budget={best.body}",
        f"model.num_blocks={config.num_blocks}", f"model.hidden_size={config.hidden_size}",
        f"model.head_dim={fields['head_dim']}", f"model.group_size={family.model.group_size}",
        f"model.alignment={family.model.alignment}", f"model.vocab_size={fields['vocab_size']}",
        *changed, f"sequence_length={family.sequence_length}", f"max_tokens={best.tokens}",
        "tokens_per_parameter=null", "horizons=null",
    ]  # fmt: skip
    return f"{command_for('train')} {shlex.join(settings)}"


def _candidate_record(candidate: Candidate, family: LadderFamily) -> dict[str, Any]:
    config = candidate.config
    return {
        "model": config.to_dict(),
        "parameters": asdict(count_parameters(config)),
        "tokens": candidate.tokens,
        "flops": flops_per_token(config, family.sequence_length).training * candidate.tokens,
        "seconds": None if family.rate is None else _seconds(candidate, family),
        "expected_loss": candidate.loss,
    }


def _seconds(candidate: Candidate, family: LadderFamily) -> float:
    if family.rate is None:
        return float("nan")
    per_token = family.rate.seconds_per_token(candidate.config, family.sequence_length)
    return candidate.tokens * per_token


def _shape(candidate: Candidate) -> str:
    return shape_name(candidate.config)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
