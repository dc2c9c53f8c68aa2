"""Describes how the results were obtained: seeds, tokens, data, machine, code, statistics."""

from collections.abc import Iterable

from mobilellm.report.analysis import Analysis
from mobilellm.report.learning_rates import RATE, STEP, is_chosen_by_rule, rates_tried
from mobilellm.report.runs import Run
from mobilellm.report.statistics import FAMILY_LEVEL, MINIMUM_SEEDS
from mobilellm.units import count_text, duration_text, join_names, plural, rate_text


def methods(analysis: Analysis) -> list[tuple[str, list[str]]]:
    """Return pairs of a heading and its lines, in the order of the page.

    Unknown facts are left out.
    """
    runs = [run for group in analysis.groups for run in group.runs]
    rows = [
        ("Runs", [_runs(analysis, runs)]),
        ("Training", _training(runs)),
        ("Learning rates", _rates(analysis)),
        ("Data", _data(runs)),
        ("Machine", _machine(runs)),
        ("Code", _code(runs)),
        ("Commands", _commands(runs)),
        ("Statistics", [_statistics(analysis)]),
    ]
    return [(name, lines) for name, lines in rows if lines]


def _runs(analysis: Analysis, runs: list[Run]) -> str:
    seeds = sorted({run.seed for run in runs})
    spent = sum(run.number("wall_seconds") or 0 for run in runs)
    return (
        f"{plural(len(runs), 'run')} of {plural(len(analysis.groups), 'configuration')}, "
        f"seeds {join_names([str(seed) for seed in seeds])}, {duration_text(spent)} of training in "
        f"total; from {join_names([str(path) for path in analysis.sources])}"
    )


def _training(runs: list[Run]) -> list[str]:
    sizes = (
        ("tokens per run", {count_text(run.tokens) for run in runs}),
        ("tokens per optimizer step", {count_text(run.tokens_per_step) for run in runs}),
        ("tokens per window", {count_text(run.sequence_length) for run in runs}),
    )
    line = "; ".join(f"{join_names(sorted(values), 'or')} {name}" for name, values in sizes)
    if all(is_chosen_by_rule(run, STEP) for run in runs):
        line += "; the recipe rule chose the tokens per optimizer step"
    optimizers = {run.optimizer for run in runs if run.optimizer}
    made = [
        f"{name} {join_names(sorted(values), 'or')}"
        for name, values in (("optimizer", optimizers), ("precision", _texts(runs, "precision")))
        if values
    ]
    return [line, *made]


def _rates(analysis: Analysis) -> list[str]:
    """The learning rate of each configuration, with its origin in brackets."""
    lines = []
    for group in analysis.groups:
        rate = group.first.number("learning_rate")
        if rate is None:
            continue
        tried = [rate_text(value) for value in rates_tried(group.first)]
        if is_chosen_by_rule(group.first, RATE):
            note = "chosen by the recipe rule"
        else:
            note = f"tried {join_names(tried)}" if tried else "no other was tried"
        lines.append(f"{group.label}: {rate_text(rate)} ({note})")
    return lines


def _data(runs: list[Run]) -> list[str]:
    names = _texts(runs, "data.name")
    lines = [join_names(sorted(names))] if names else []
    hashes = [
        f"{name} {join_names(sorted(value[:12] for value in values), 'or')}"
        for name in ("data", "tokenizer", "train", "validation")
        if (values := _texts(runs, f"hashes.{name}"))
    ]
    return [*lines, f"hashes: {', '.join(hashes)}"] if hashes else lines


def _machine(runs: list[Run]) -> list[str]:
    devices, threads = _texts(runs, "device"), _texts(runs, "threads")
    lines = [join_names(sorted(devices))] if devices else []
    if threads:
        lines.append(f"{join_names(sorted(threads), 'or')} threads per run")
    rates = [rate for run in runs if (rate := run.number("matmul_flops_per_second"))]
    if rates:
        ends = dict.fromkeys((count_text(min(rates)), count_text(max(rates))))
        lines.append(
            f"matrix products at {'–'.join(ends)} FLOP/s, measured at the start of each run"
        )
    used = [share for run in runs if (share := run.number("model_flops_utilization"))]
    if used:
        ends = dict.fromkeys((f"{100 * min(used):.0f}", f"{100 * max(used):.0f}"))
        lines.append(f"model FLOPs utilization {'–'.join(ends)} % of that rate")
    return lines


def _code(runs: list[Run]) -> list[str]:
    lines = []
    commits = _texts(runs, "git.commit")
    if commits:
        is_dirty = any(run.fact("git.dirty") for run in runs)
        changed = ", with uncommitted changes" if is_dirty else ""
        lines.append(f"git commit {join_names(sorted(commits))}{changed}")
    names = dict.fromkeys(name for run in runs for name in (run.fact("versions") or {}))
    versions = [
        f"{name} {join_names(sorted(_texts(runs, f'versions.{name}')), 'or')}" for name in names
    ]
    return [*lines, ", ".join(versions)] if versions else lines


def _commands(runs: list[Run]) -> list[str]:
    """The distinct commands, at most six."""
    commands = sorted(_texts(runs, "command"))
    more = [f"and {len(commands) - 6} more, see comparison.csv"] if len(commands) > 6 else []
    return [*commands[:6], *more]


def _statistics(analysis: Analysis) -> str:
    looks = (
        ""
        if analysis.max_seeds is None
        else f", over all looks from {MINIMUM_SEEDS} to {analysis.max_seeds} seeds (a linear "
        "spending function)"
    )
    return (
        "Intervals of losses are 95 % Student t intervals over seeds. Runs with the same seed see "
        "the same data in the same order, so configurations × seeds are compared as a block "
        "design: least squares with an effect of each configuration and each seed, also where runs "
        "are missing. The variance of a difference is the mean of two estimates, that of all runs "
        "and that of the pair’s own differences. The limit for all pairs together comes from the "
        "simulated distribution of the largest statistic, under the noise that makes it largest: "
        "the chance of even one wrong verdict is at most "
        f"{100 * FAMILY_LEVEL:.0f} %{looks}, also if configurations vary unequally. The seed "
        "determines the initial weights and the data order; the results hold for this data set and "
        "machine only."
    )


def _texts(runs: Iterable[Run], path: str) -> set[str]:
    """The distinct known values of a fact."""
    return {str(value) for run in runs if (value := run.fact(path)) not in (None, "")}
