r"""Compress the same matrices of a saved model by each method, without labels; print a table.

The loss is measured on 64 windows of the validation text, and the calibration set consists of 32
windows of the training text. A window has 512 predicted tokens. Documents are joined, each after a
begin-of-text token.

  python scripts/compression_methods.py MODEL_DIR --train train.jsonl --validation valid.jsonl \
      --layers 'blocks.[13].feed_forward.*'
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from mobilellm.cli.command import run_command


def main() -> None:
    """Compress the model that the command line names, and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder",
        metavar="MODEL_DIR",
        help="folder of a model, of a run, or of a Hugging Face checkpoint",
    )
    parser.add_argument("--train", required=True, help="JSON lines with the field text")
    parser.add_argument("--validation", required=True, help="JSON lines with the field text")
    parser.add_argument(
        "--layers",
        nargs="+",
        default=["blocks.*"],
        help="patterns of the matrices (default: all matrices of the blocks)",
    )
    parser.add_argument(
        "--ratio",
        type=float,
        default=0.5,
        help="share of the parameters that is kept (default: 0.5)",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="METHOD",
        help="names of methods, as in the table (default: all)",
    )
    arguments = parser.parse_args()

    from scripts.benchmarks.compression_methods import compare_methods

    rows = compare_methods(
        arguments.folder, arguments.train, arguments.validation, arguments.layers, arguments.ratio,
        methods=arguments.methods,
        log=lambda line: print(line, file=sys.stderr, flush=True),
    )  # fmt: skip
    print("| method | parameters of the matrices | loss, nats per token |\n|---|---|---|")
    for row in rows:
        print(f"| {row['method']} | {row.get('parameters', '')} | {row['loss']:.3f} |")


if __name__ == "__main__":
    run_command(main)
