r"""Fit the recipe rule to the runs of a grid, and print its constants and how well it chooses.

The grid is a sweep over shapes, max_tokens, tokens_per_step and optimizer.learning_rate
(docs/recipe.md has the commands). The constants belong in mobilellm/optim/recipe_rule.py.

  python scripts/recipe_rule.py outputs/recipe_grid --write docs/results/recipe_grid.csv
  python scripts/recipe_rule.py docs/results/recipe_grid.csv
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[0] = str(Path(__file__).resolve().parents[1])

from mobilellm.cli.command import run_command

if TYPE_CHECKING:
    from mobilellm.optim.recipe_rule import RecipeRule
    from scripts.benchmarks.recipe_fit import Grid, GridRun

SCHEDULES = {"muon": "wsd", "adamw": "cosine"}


def main() -> None:
    """Read the runs, fit the rule of each optimizer, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="sweep folders, or CSV files of a grid"
    )
    parser.add_argument("--write", type=Path, metavar="CSV", help="also write the runs to a file")
    arguments = parser.parse_args()

    from mobilellm.optim.recipe_rule import Setting
    from scripts.benchmarks.recipe_fit import fit_rule, make_grid, write_grid

    runs = read(arguments.paths)
    if arguments.write is not None:
        write_grid(arguments.write, runs)
    reference = Setting(tokens=400_000, width=96, depth=6)
    for optimizer in sorted({run.optimizer for run in runs} & SCHEDULES.keys()):
        grid = make_grid(runs, optimizer)
        rule = fit_rule(grid, reference, SCHEDULES[optimizer])
        print(f"{optimizer}: {rule}")
        print_choices(grid, rule)


def read(paths: Sequence[Path]) -> "list[GridRun]":
    """Read the runs of all paths.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a path has no finished run.
    """
    from mobilellm.report.runs import read_runs
    from scripts.benchmarks.recipe_fit import GridRun, read_grid

    runs = []
    for path in paths:
        if path.suffix == ".csv":
            runs += read_grid(path)
            continue
        for run in read_runs([path]).finished:
            runs.append(
                GridRun(
                    optimizer=run.fact("optimizer._target_").rpartition(".")[2],
                    width=run.model.hidden_size,
                    depth=run.model.num_layers,
                    tokens=run.fact("max_tokens"),
                    step=run.tokens_per_step,
                    rate=run.fact("learning_rate"),
                    loss=run.val_loss,
                )
            )
    return runs


def print_choices(grid: "Grid", rule: "RecipeRule") -> None:
    """Print what the rule chooses for each setting of the grid, and its excess loss."""
    from scripts.benchmarks.recipe_fit import excess

    print("  depth x width   tokens  tokens/step  learning rate  nats above the best of the grid")
    for setting, step, rate, above in excess(grid, rule):
        shape = f"{setting.depth}x{setting.width}"
        print(f"  {shape:>13} {setting.tokens:>8,.0f} {step:>12} {rate:>14.4f} {above:>+10.3f}")


if __name__ == "__main__":
    run_command(main)
