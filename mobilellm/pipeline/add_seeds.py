"""Train a sweep with one seed more at a time until every pair has a verdict, or up to a limit."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from mobilellm.cli.errors import CommandError
from mobilellm.command_names import command_for
from mobilellm.hydra_app.configuration import compose
from mobilellm.hydra_app.override_text import override_key
from mobilellm.report import Comparison, compare
from mobilellm.report.statistics import MINIMUM_SEEDS, check_margin, level_until
from mobilellm.units import join_names

NAMING = ("experiment", "experiment_name", "output_dir")
"""Keys that decide the folder of a sweep."""

Train = Callable[[Sequence[str]], int]


def add_seeds(
    overrides: Sequence[str],
    max_seeds: int,
    *,
    margin: float | None = None,
    baseline: str | None = None,
    tell: Callable[[str], None] = print,
    train: Train | None = None,
) -> tuple[Comparison | None, int]:
    """Train 3 seeds, compare, and add seeds while pairs are without a verdict.

    Finished runs are kept, so the same call continues where it was interrupted.

    Args:
        overrides: of `mobilellm train -m`, without `seed`.
        max_seeds: the limit. The stated error holds for this limit over all looks.
        margin: a difference that does not matter, in the unit of the loss.
        baseline: label of a configuration; then only the pairs with it count.
        tell: receives one line per look.
        train: trains a sweep with these overrides and returns an exit code; default: another
            process.

    Returns:
        The last comparison, and the exit code of the last training; not 0 if it failed.

    Raises:
        ValueError: `seed` is given, the limit is below 3, the margin is not a number above 0, or
            a seed left no finished run.
    """
    level_until(max_seeds)
    check_margin(margin)
    if any(override_key(override) == "seed" for override in overrides):
        raise CommandError(
            "seed=… cannot be given: the seeds are 0, 1, 2, … up to --max-seeds; leave it out"
        )
    run, folder = train or train_sweep, sweep_folder(overrides)
    seeds = list(range(MINIMUM_SEEDS))
    comparison = None
    while True:
        code = run([*overrides, f"seed={','.join(map(str, seeds))}"])
        if code:
            return comparison, code
        comparison = compare([folder], baseline=baseline, margin=margin, max_seeds=max_seeds)
        tell(comparison.power_sentences[-1] if comparison.pairs else comparison.verdict)
        trained = {seed for group in comparison.groups for seed in group.seeds}
        if not trained.issuperset(seeds):
            lacking = join_names([str(seed) for seed in seeds if seed not in trained])
            raise CommandError(
                f"no run with seed {lacking} has finished in {folder}; `{command_for('status')} "
                f"{folder}` shows why"
            )
        if not comparison.undecided or len(trained) >= max_seeds:
            return comparison, 0
        seeds = [next(seed for seed in range(max_seeds) if seed not in trained)]


def sweep_folder(overrides: Sequence[str]) -> Path:
    """Return the folder in which a sweep with these overrides saves its runs."""
    naming = [override for override in overrides if override_key(override) in NAMING]
    config = compose("train", naming)
    return Path(str(config.output_dir)) / str(config.experiment_name)


def train_sweep(overrides: Sequence[str]) -> int:
    """Run `mobilellm train -m` in a process of its own, and return its exit code.

    SIGTERM is passed on to it.
    """
    command = [sys.executable, "-m", "mobilellm", "train", "-m", *overrides]
    with subprocess.Popen(command) as process, _forwarded(process):
        return process.wait()


@contextlib.contextmanager
def _forwarded(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Pass SIGTERM on to the process, which saves its runs and ends."""

    def forward(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    before = signal.signal(signal.SIGTERM, forward)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
