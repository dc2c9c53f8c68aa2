r"""Factorise the same matrices of a saved model in every way, without training; print the table.

The loss is on 64 windows of 512 predicted tokens of the validation text, the calibration set 32
such windows of the training text; documents are joined with the BOS token before each.

  python scripts/compression_methods.py MODEL_DIR --train train.jsonl --validation valid.jsonl \
      --layers 'blocks.[13].feed_forward.*'
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from mobilellm.cli.command import run_command


def main() -> None:
    """Read the arguments, compress, print Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="MODEL_DIR", help="model, run or Hugging Face folder")
    parser.add_argument("--train", required=True, help="jsonl with a text a line")
    parser.add_argument("--validation", required=True, help="jsonl with a text a line")
    parser.add_argument("--layers", nargs="+", default=["blocks.*"], help="default: all of blocks")
    parser.add_argument("--ratio", type=float, default=0.5, help="parameters kept (default: 0.5)")
    arguments = parser.parse_args()

    from scripts.benchmarks.compression_methods import compare_methods

    rows = compare_methods(
        arguments.folder, arguments.train, arguments.validation, arguments.layers, arguments.ratio,
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )  # fmt: skip
    print("| method | parameters of the matrices | loss, nats per token |\n|---|---|---|")
    for row in rows:
        print(f"| {row['method']} | {row.get('parameters', '')} | {row['loss']:.3f} |")


if __name__ == "__main__":
    run_command(main)
