"""Compare trained models: table, verdict for each pair, warnings, and a page with plots.

Reads every finished run at or below the given folders. Runs that differ only in the seed are one
shape; give at least three seeds of each, trained on the same data, for a verdict. Runs that did
not finish are listed, learning-rate probes are passed over. Every pair is compared; beyond eight
shapes, each with the best, or with --baseline. Folders that scripts/compress.py wrote are listed by
size, loss and time.
  python scripts/compare.py outputs/depth_vs_width
  python scripts/compare.py outputs/default --baseline 12×80
  python scripts/compare.py compressed/low_rank compressed/wanda --out leaderboard
  python scripts/compare.py outputs/small outputs/large --out comparison --title "Two budgets"
"""

import os
import sys
from pathlib import Path

sys.path = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).parent]

from mobilellm.cli.command import run_command
from mobilellm.paths import user_path


def main() -> None:
    """Read the command line, compare, print."""
    import argparse

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", type=user_path, metavar="RUN_OR_SWEEP_DIR")
    parser.add_argument("--out", type=user_path, help="default: comparison/ in the first folder")
    parser.add_argument(
        "--baseline", metavar="SHAPE", help="compare with this shape, or the shape of this run only"
    )
    parser.add_argument("--title", help="heading of the page; default: the experiment's name")
    arguments = parser.parse_args()

    from rich.console import Console

    from mobilellm.report import compare

    comparison = compare(
        arguments.paths, arguments.out, title=arguments.title, baseline=arguments.baseline
    )
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 120
    # Not cropped: the path of the page is longer than many terminals are wide.
    Console(width=width, highlight=False).print(comparison, crop=False)


if __name__ == "__main__":
    run_command(main)
