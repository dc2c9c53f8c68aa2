r"""Simulate sweeps to check the statistics of compare; print Markdown.

Tables: the share of sweeps with a wrong verdict (none of the shapes differ) by condition and
method, the smallest difference that is found with 80 % power, and the error of adding seeds until a
verdict. The random numbers are fixed, so the same command prints the same tables.

  python scripts/statistics_simulation.py
  python scripts/statistics_simulation.py --sweeps 500
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from mobilellm.cli.command import run_command

OWN = "this method"
OTHER_SIZES = ((3, 3), (3, 8), (5, 5))


def main() -> None:
    """Read the arguments, simulate, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sweeps", type=int, default=2000, help="simulated sweeps per condition (default: 2000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default: 0)")
    arguments = parser.parse_args()
    _print_errors(arguments.sweeps, arguments.seed)
    _print_power(arguments.sweeps, arguments.seed)
    _print_sequential(arguments.sweeps, arguments.seed)


def _print_errors(sweeps: int, seed: int) -> None:
    from scripts.benchmarks.statistics_methods import METHODS
    from scripts.benchmarks.statistics_simulation import CONDITIONS, wrong_verdicts

    print(
        f"Wrong verdicts in %, {sweeps} sweeps per condition; 5 shapes × 3 seeds, and this method"
    )
    print("at other sizes:\n")
    sizes = [f"{OWN}, {shapes} × {seeds}" for seeds, shapes in OTHER_SIZES]
    _row(["condition", *METHODS, *sizes])
    _row(["---"] * (1 + len(METHODS) + len(sizes)))
    for number, condition in enumerate(CONDITIONS):
        start = 1000 * seed + number
        shares = [*wrong_verdicts(condition, 3, 5, sweeps, start, list(METHODS)).values()]
        for seeds, shapes in OTHER_SIZES:
            shares += wrong_verdicts(condition, seeds, shapes, sweeps, start, [OWN]).values()
        _row([condition.name, *(f"{100 * share:.1f}" for share in shares)])


def _print_power(sweeps: int, seed: int) -> None:
    from mobilellm.report.statistics.noise import smallest_difference as forecast
    from scripts.benchmarks.statistics_methods import METHODS
    from scripts.benchmarks.statistics_simulation import smallest_difference

    print("\nSmallest difference found with 80 % power, in standard deviations of a run, equal")
    print("variances; in brackets the forecast of the report:\n")
    names = [next(iter(METHODS)), OWN]
    _row(["shapes × seeds", *names, "ratio"])
    _row(["---"] * 4)
    for shapes, seeds in ((2, 3), (3, 3), (5, 3), (8, 3), (5, 5), (5, 10)):
        before, now = (smallest_difference(name, seeds, shapes, sweeps, seed) for name in names)
        expected = forecast(shapes, seeds)
        _row([f"{shapes} × {seeds}", f"{before:.2f}", f"{now:.2f} ({expected:.2f})",
              f"{now / before:.2f}"])  # fmt: skip


def _print_sequential(sweeps: int, seed: int) -> None:
    from scripts.benchmarks.statistics_simulation import CONDITIONS, sequential_errors

    print("\nWrong verdicts in % if seeds are added one by one, from 3 to 8, until one appears;")
    print("5 shapes:\n")
    _row(["condition", "shared level", "5 % at each look"])
    _row(["---"] * 3)
    for number, condition in enumerate(CONDITIONS):
        if condition.missing:
            continue
        shares = sequential_errors(condition, 8, 5, sweeps, 1000 * seed + number)
        _row([condition.name, *(f"{100 * share:.1f}" for share in shares.values())])


def _row(cells: list[str]) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    run_command(main)
