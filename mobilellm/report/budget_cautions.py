"""Configurations without a common budget, and those that miss the budget of the others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mobilellm.accounting import flops_per_token
from mobilellm.report.budgets import (
    TOLERANCE,
    Quantity,
    budgets,
    bytes_at,
    ms_text,
    predicted_latency,
    split_by_budget,
    training_flops,
)
from mobilellm.report.caution import Caution, shorten_list
from mobilellm.report.run_groups import RunGroup
from mobilellm.units import join_names


@dataclass(frozen=True)
class Declared:
    """A budget in the configuration of a run."""

    amount: float
    quantity: Quantity
    remedy: str
    """The settings with which another run meets it."""
    profile: str = ""
    """Hash and device of the device profile, for budgets of latency."""

    @property
    def key(self) -> tuple[float, str, str]:
        """Equal for equal budgets."""
        return self.amount, self.quantity.name, self.profile


def budget_cautions(groups: Sequence[RunGroup]) -> Iterable[Caution]:
    """Yield cautions about configurations that are not of one budget."""
    return (*_different(groups), *_missed(groups))


def _different(groups: Sequence[RunGroup]) -> Iterable[Caution]:
    """Yield cautions about configurations that have no budget in common."""
    subsets = split_by_budget(groups)
    for subset in subsets:
        if len(subset) < 2:
            continue
        found = [budget for budget in budgets(subset) if budget.quantity.is_size]
        if not any(budget.is_matched for budget in found):
            names = join_names([str(budget) for budget in found])
            text = f"no budget is equal within ±{100 * TOLERANCE:.0f} %: {names}"
            yield Caution("budget", True, text)
    if len(subsets) > 1:
        text = "; ".join(shorten_list([group.label for group in subset]) for subset in subsets)
        yield Caution("budget", True, f"configurations of different budgets are compared: {text}")


def _missed(groups: Sequence[RunGroup]) -> Iterable[Caution]:
    """Yield a caution about configurations that miss the budget for which the others were trained.

    Configurations that were trained for several budgets, such as a ladder of sizes, have no
    common one.
    """
    for read in (declared_size, declared_flops):
        found = {group.label: read(group) for group in groups}
        declared = [one for one in found.values() if one is not None]
        if len({one.profile for one in declared}) > 1 and len({one.amount for one in declared}) < 2:
            devices = sorted({one.profile for one in declared})
            text = f"latencies were predicted from different device profiles: {join_names(devices)}"
            yield Caution("budget", True, f"{text}; train all with one model.latency_profile")
        if len(declared) < 2 or len({one.key for one in declared}) > 1:
            continue
        budget = declared[0]
        missed = []
        for group in groups:
            value = budget.quantity.value(group)
            if value is None:
                missed.append(f"{group.label} (unknown)")
            elif abs(value / budget.amount - 1) > 2 * TOLERANCE:
                share = f"{100 * (value / budget.amount - 1):+.0f} %"
                missed.append(f"{group.label} ({budget.quantity.text(value)}, {share})")
        if missed:
            yield Caution(
                "budget",
                True,
                f"{len(declared)} of {len(groups)} configurations were trained for "
                f"{budget.quantity.name} of {budget.quantity.text(budget.amount)}, which others do "
                f"not have: {', '.join(missed)}; train these with {budget.remedy}, or leave them "
                "out",
            )


def declared_size(group: RunGroup) -> Declared | None:
    """The budget of `model=by_budget` that a run's shape was solved for; None without one."""
    run = group.first
    match, amount = run.setting("model.match"), _number(run.setting("model.budget"))
    if amount is None or run.setting("init_from"):
        return None
    bits = run.setting("model.bits")
    quantity = {
        "body": Quantity("body parameters", lambda g: g.first.parameters["body"]),
        "stored": Quantity("stored parameters", lambda g: g.first.parameters["stored"]),
        "flops": Quantity("forward FLOPs per token", lambda g: _forward(g, group)),
        "bytes": bytes_at(bits, run.setting("model.embedding_bits"))
        if isinstance(bits, int)
        else None,
        "latency": Quantity("predicted decode latency", predicted_latency, ms_text),
    }.get(str(match))
    if quantity is None:
        return None
    names = ("match", "budget", "bits", "embedding_bits", "latency_profile")
    given = {name: run.setting(f"model.{name}") for name in names}
    remedy = " ".join(f"model.{name}={v}" for name, v in given.items() if v is not None)
    profile = " of ".join(
        str(run.fact(f"matched.profile.{name}") or "unknown") for name in ("hash", "device")
    )
    return Declared(amount, quantity, f"model=by_budget {remedy}",
                    profile if match == "latency" else "")  # fmt: skip


def declared_flops(group: RunGroup) -> Declared | None:
    """The FLOPs of training to which a run's tokens were adjusted; None without them."""
    amount = _number(group.first.setting("max_flops"))
    if amount is None:
        return None
    return Declared(amount, Quantity("training FLOPs", training_flops), f"max_flops={amount:g}")


def _forward(group: RunGroup, given: RunGroup) -> float:
    """Forward FLOPs per token at the sequence length of the budget."""
    length = given.first.setting("model.sequence_length") or given.model.max_position_embeddings
    return flops_per_token(group.model, int(length)).forward


def _number(value: object) -> float | None:
    """A number, also as text: YAML 1.1 reads 1e6 as a string."""
    try:
        return float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return None
