"""Train a sweep with more and more seeds until every pair of models has a verdict.

Trains three seeds and compares; while pairs are not distinguishable, it adds the next seed, up to
--max-seeds. The chance of even one wrong verdict is at most 5 % over all comparisons together, so
choose the limit before the first run. With --margin, models that differ by less than a difference
that does not matter are decided too. The same command continues after an interruption. The sweep is
given as to mobilellm train -m, without seed=….

  mobilellm add-seeds experiment=depth_vs_width --max-seeds 8
  mobilellm add-seeds experiment=demo --max-seeds 6 --margin 0.02
"""

import functools
import sys
from collections.abc import Sequence
from typing import NoReturn

from mobilellm.cli.command import run_command
from mobilellm.cli.console import make_console
from mobilellm.commands import command_parser


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; `arguments` default to the command line."""
    run_command(functools.partial(run, arguments))


def run(arguments: Sequence[str] | None) -> None:
    """Read the command line, train and compare in turn, print the report."""
    parser = command_parser("add_seeds", __doc__)
    parser.add_argument("overrides", nargs="+", metavar="key=value", help="as for train -m")
    parser.add_argument("--max-seeds", type=int, required=True, metavar="N", help="at least 3")
    parser.add_argument(
        "--margin", type=float, metavar="LOSS", help="a difference in loss that does not matter"
    )
    parser.add_argument(
        "--baseline", metavar="SHAPE", help="only the pairs with this shape need a verdict"
    )
    # Options may stand between the overrides.
    options = parser.parse_intermixed_args(arguments)

    from mobilellm.pipeline.add_seeds import add_seeds

    comparison, code = add_seeds(
        options.overrides, options.max_seeds, margin=options.margin, baseline=options.baseline,
        tell=lambda line: print(line, flush=True),
    )  # fmt: skip
    if comparison is not None and not code:
        make_console(120).print(comparison, crop=False)
    if code:
        sys.exit(code)
