"""Compare trained models: a table, a verdict for each pair, cautions, and a page with plots.

Reads every finished run in the given folders and below them. Runs that differ only in the seed
count as one model; for a verdict, give at least three seeds of each, trained on the same data. The
chance of even one wrong verdict is at most 5 %. --margin also finds models that differ by less than
a difference that does not matter; --max-seeds allows looks after every seed up to that number.
Unfinished runs are listed but not compared, and learning-rate probes are left out. Up to eight
models are compared in pairs; if there are more, each is compared with the best or with --baseline.
Folders that mobilellm compress wrote are listed by size, loss and time.
Models of several sizes and depths, each size trained on its own number of tokens
(experiment=ladder), are compared within their size, and a law of the loss is fitted to all of them.
Models of different depth are also compared at equal decode latency: up to eight small shapes are
timed side by side on this machine, once, and the times are kept in the report's folder; or by the
times that another device measured (mobilellm device-profile --bundle).

  mobilellm compare outputs/depth_vs_width
  mobilellm compare outputs/default --baseline 12×80
  mobilellm compare outputs/default --margin 0.01 --max-seeds 8
  mobilellm compare compressed/low_rank compressed/wanda --out leaderboard
  mobilellm compare outputs/depth_vs_width --latency
  mobilellm compare outputs/depth_vs_width --latency-from results.json
  mobilellm compare outputs/ladder
  mobilellm compare outputs/small outputs/large --out comparison --title "Two budgets"
"""

import argparse
import functools
from collections.abc import Sequence
from typing import NoReturn

from mobilellm.cli.command import run_command
from mobilellm.cli.console import make_console
from mobilellm.commands import command_parser
from mobilellm.paths import user_path


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; `arguments` default to the command line."""
    run_command(functools.partial(run, arguments))


def run(arguments: Sequence[str] | None) -> None:
    """Read the command line, compare the runs and print the comparison."""
    parser = command_parser("compare", __doc__)
    parser.add_argument("paths", nargs="+", type=user_path, metavar="RUN_OR_SWEEP_DIR")
    parser.add_argument("--out", type=user_path, help="default: comparison/ in the first folder")
    parser.add_argument(
        "--baseline", metavar="SHAPE", help="compare with this shape, or the shape of this run only"
    )
    parser.add_argument(
        "--margin", type=float, metavar="LOSS", help="a difference in loss that does not matter"
    )
    parser.add_argument(
        "--max-seeds", type=int, metavar="N", help="the limit, if seeds are added until a verdict"
    )
    parser.add_argument(
        "--latency",
        action=argparse.BooleanOptionalAction,
        help="measure decode latency on this machine anew and longer; or not at all",
    )
    parser.add_argument(
        "--latency-from", type=user_path, metavar="FILE", help="use what a bundle measured instead"
    )
    parser.add_argument(
        "--latency-setting", metavar="ENGINE/TYPE/THREADS", help="of several in that file"
    )
    parser.add_argument("--title", help="heading of the page; default: the experiment's name")
    options = parser.parse_args(arguments)

    from mobilellm.report import compare

    comparison = compare(
        options.paths, options.out, title=options.title, baseline=options.baseline,
        margin=options.margin, max_seeds=options.max_seeds, latency=options.latency,
        latency_from=options.latency_from, latency_setting=options.latency_setting,
    )  # fmt: skip
    # Not cropped: the path of the page is longer than many terminals are wide.
    make_console(120).print(comparison, crop=False)
