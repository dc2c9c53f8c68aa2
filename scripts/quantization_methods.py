"""Quantize the model of a run by each method, without training; print a table.

The calibration set has 65,536 tokens of the run's training text. The losses are measured on windows
of 256 tokens of its validation text, and each is compared with that of the floats on the same
windows. Models in further folders, e.g. of quantization-aware training, are measured too.

  python scripts/quantization_methods.py RUN
  python scripts/quantization_methods.py RUN outputs/quantization_qat/<run>
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from mobilellm.cli.command import run_command
from mobilellm.paths import user_path


def main() -> None:
    """Quantize the model that the command line names, and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=user_path, metavar="RUN", help="folder of a finished run")
    parser.add_argument(
        "others", type=user_path, nargs="*", metavar="OTHER_DIR", help="folders of further models"
    )
    parser.add_argument(
        "--validation-tokens", type=int, metavar="N", help="default: all of the validation text"
    )
    arguments = parser.parse_args()

    from scripts.benchmarks.quantization_methods import compare_methods

    rows = compare_methods(
        arguments.run, arguments.others, validation_tokens=arguments.validation_tokens,
        log=lambda line: print(line, file=sys.stderr, flush=True),
    )  # fmt: skip
    print("| model | bytes | bits per weight | loss | minus that of the floats |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.method} | {row.bytes:,} | {row.bits_per_weight:.2f} | {row.loss:.4f} | "
            f"{row.difference:+.4f} ± {row.half_width:.4f} |"
        )


if __name__ == "__main__":
    run_command(main)
