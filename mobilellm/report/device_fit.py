"""Which models fit into the memory that an application may use on a device, in which types."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobilellm.accounting.engine_files import (
    ENGINE_TYPES,
    can_have_type,
    engine_cache_bytes,
    engine_file_bytes,
)
from mobilellm.evaluation.engine_profile.results import CaseResult, EngineProfile
from mobilellm.models import ModelConfig
from mobilellm.report.engine_profile import plain_table, profile_sentences, profile_tables
from mobilellm.units import MISSING, bytes_text

if TYPE_CHECKING:
    from rich.table import Table

SHARE = 0.1
"""Of a device's memory, which one application should not exceed: Liu et al. 2024,
arXiv:2402.14905, section 1."""
HEADS = ("model", "engine", "weights", "cache", "overhead", "total", "share", "fits")
YES, NO, UNKNOWN = "yes", "no", "perhaps"


@dataclass(frozen=True, kw_only=True)
class MemoryLimit:
    """The memory that a model may use.

    Raises:
        ValueError: the share is not above 0 and at most 1, or the context is below 1.
    """

    device_bytes: float
    """Memory of the device."""
    share: float = SHARE
    context: int | None = None
    """Tokens in the KV cache; None: as many as each model has positions."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 < self.share <= 1:
            raise ValueError(f"--share {self.share:g} must be above 0 and at most 1; give e.g. 0.1")
        if self.context is not None and self.context < 1:
            raise ValueError(f"--context {self.context} must be at least 1 token")

    @property
    def limit_bytes(self) -> float:
        """Bytes that weights, cache and overhead may have together."""
        return self.share * self.device_bytes

    def context_of(self, name: str, config: ModelConfig) -> int:
        """Tokens in the KV cache of a model.

        Raises:
            ValueError: the model has fewer positions.
        """
        longest = config.max_position_embeddings
        if self.context is not None and self.context > longest:
            raise ValueError(
                f"--context {self.context} exceeds the {longest} positions of {name}; give at most "
                f"{longest}"
            )
        return self.context or longest


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """What one model in one type needs in one engine."""

    model: str
    engine: str
    kind: str
    weight_bytes: int
    """Size of the file, or by arithmetic if this type was not measured."""
    cache_bytes: int
    overhead_bytes: int | None
    """What the engine takes besides, as it was measured; None: this type was not measured."""

    @property
    def total_bytes(self) -> int:
        """All that is known."""
        return self.weight_bytes + self.cache_bytes + (self.overhead_bytes or 0)

    def fits(self, limit: MemoryLimit) -> str:
        """`YES`, `NO`, or `UNKNOWN` if it does without an overhead that was not measured."""
        if self.total_bytes > limit.limit_bytes:
            return NO
        return UNKNOWN if self.overhead_bytes is None else YES


def memory_needs(profile: EngineProfile, limit: MemoryLimit) -> tuple[MemoryNeed, ...]:
    """What each model of a profile needs, in all types of each engine that it was measured in.

    Raises:
        ValueError: a model has fewer positions than the context of `limit`.
    """
    cases = {(one.case.model, one.case.engine): one.case for one in profile.results}
    needs = []
    for case in cases.values():
        config = ModelConfig.from_dict(case.config)
        context = limit.context_of(case.model, config)
        for kind in ENGINE_TYPES[case.engine]:
            if not can_have_type(config, case.engine, kind):
                continue
            measured = [
                one for one in profile.results
                if (one.case.model, one.case.engine, one.case.kind)
                == (case.model, case.engine, kind)
            ]  # fmt: skip
            overheads = [overhead_bytes(profile, one) for one in measured]
            needs.append(
                MemoryNeed(
                    model=case.model, engine=case.engine, kind=kind,
                    weight_bytes=measured[0].case.file_bytes if measured
                    else engine_file_bytes(config, case.engine, kind),
                    cache_bytes=engine_cache_bytes(config, case.engine, context),
                    overhead_bytes=max((o for o in overheads if o is not None), default=None),
                )
            )  # fmt: skip
    return tuple(needs)


def overhead_bytes(profile: EngineProfile, result: CaseResult) -> int | None:
    """Peak memory beyond Python, the engine's package, the file and the KV cache; at least 0."""
    peak, before = result.peak_memory_bytes, result.memory_before_bytes
    if peak is None or before is None:
        return None
    case = result.case
    config = ModelConfig.from_dict(case.config)
    cache = engine_cache_bytes(config, case.engine, profile.plan.context)
    return max(0, peak - before - case.file_bytes - cache)


def fit_rows(profile: EngineProfile, limit: MemoryLimit) -> list[tuple[str, ...]]:
    """One row for each model, engine and type."""
    return [
        (
            need.model, f"{need.engine}/{need.kind}",
            bytes_text(need.weight_bytes, aligned=True), bytes_text(need.cache_bytes, aligned=True),
            MISSING if need.overhead_bytes is None
            else bytes_text(need.overhead_bytes, aligned=True),
            bytes_text(need.total_bytes, aligned=True),
            f"{100 * need.total_bytes / limit.device_bytes:.1f} %", need.fits(limit),
        )
        for need in memory_needs(profile, limit)
    ]  # fmt: skip


def fit_table(profile: EngineProfile, limit: MemoryLimit) -> "Table":
    """The rows as a table of at most 80 columns."""
    return plain_table(HEADS, fit_rows(profile, limit))


def fit_sentences(profile: EngineProfile, limit: MemoryLimit) -> list[str]:
    """What was asked, which types fit, and what the columns mean."""
    needs = memory_needs(profile, limit)
    fitting = [f"{n.model} in {n.engine}/{n.kind}" for n in needs if n.fits(limit) == YES]
    tokens = "all their positions" if limit.context is None else f"{limit.context} tokens"
    return [
        f"{100 * limit.share:g} % of {bytes_text(limit.device_bytes)} are "
        f"{bytes_text(limit.limit_bytes)}. With a KV cache of {tokens}, "
        + (f"these fit: {', '.join(fitting)}." if fitting else "no measured type surely fits."),
        "overhead: what the engine took besides weights and cache when it was measured, without "
        "Python and the code of the engine; its packed copies of weights count, and pages of a "
        "mapped file are taken to stay in memory. perhaps: weights and cache fit, and the overhead "
        "of this type was not measured.",
    ]


def profile_parts(profile: EngineProfile, limit: MemoryLimit | None) -> "list[Table | str]":
    """A profile for the terminal, and what fits if there is a limit: tables, then sentences."""
    tables, sentences = list(profile_tables(profile)), profile_sentences(profile)
    if limit is not None:
        tables.append(fit_table(profile, limit))
        sentences += fit_sentences(profile, limit)
    return [*tables, *sentences]
