"""Rank many shapes by their slices of one supernet, and say how far the order can be trusted.

Measures the validation loss of each shape's slice on the same text and sorts them. At least eight
shapes of the space must also have been trained alone, on the same text and all on equally many
tokens: Kendall's rank correlation with their losses is printed beside the order, with the cost of
both ways. An interrupted ranking continues in the same folder.

  mobilellm rank-shapes outputs/supernet --alone outputs/supernet_alone --out ranking
  mobilellm rank-shapes SUPERNET_RUN --alone RUN RUN RUN … --out ranking --shapes 200
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
    """Read the command line, rank the shapes, and print the ranking."""
    options = vars(_parser().parse_args(arguments))
    source, alone, out = (options.pop(name) for name in ("supernet", "alone", "out"))
    given = {key: value for key, value in options.items() if value is not None}

    from mobilellm.pipeline.rank_shapes import RankOptions, rank_shapes
    from mobilellm.report.shape_ranking_text import sentences, table

    ranking, page = rank_shapes(source, alone, out, RankOptions(**given))
    console = make_console(80)
    console.print(table(ranking))
    for sentence in sentences(ranking):
        console.print(sentence)
    console.print(f"Page: {page}", soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("rank_shapes", __doc__)
    parser.add_argument(
        "supernet", type=user_path, metavar="SUPERNET_RUN",
        help="run of distillation=supernet, or a folder with exactly one",
    )  # fmt: skip
    parser.add_argument(
        "--alone", type=user_path, nargs="+", required=True, metavar="RUN_OR_SWEEP_DIR",
        help="runs of at least 8 shapes of the space, trained alone",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=user_path, required=True, metavar="DIR", help="folder of the report"
    )
    parser.add_argument(
        "--shapes", type=int, metavar="N",
        help="the most shapes to rank; of a larger space, random ones; default: 64",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, metavar="N", help="of the random shapes; default: 0")
    parser.add_argument(
        "--micro-batch-size", type=int, metavar="N", help="windows per forward pass; default: 8"
    )
    parser.add_argument(
        "--prepared-dir", metavar="DIR", help="prepared data; default: that of SUPERNET_RUN"
    )
    return parser
