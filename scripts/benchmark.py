"""The project's measurements, side by side with peers in one run: medians of alternating rounds.

  python scripts/benchmark.py                    everything
  python scripts/benchmark.py train decode       some parts
  python scripts/benchmark.py all --quick        one short round each: does it run?

Parts: train (step against Hugging Face's Llama), litgpt (against LitGPT's GPT, in the environment
of LITGPT_PYTHON), memory (peak of a step), decode (against Hugging Face's generate), loop
(Lightning with logging over a bare loop), startup (command to first step), data (preparing text),
gpu, factorized (factorised feed-forward layers against dense ones), distillation (steps with a
teacher or its stored logits against steps on labels alone), scaling (one process against two, and
the forecast of both).
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from mobilellm.cli.command import run_command

PARTS = ("train", "litgpt", "memory", "decode", "loop", "startup", "data", "gpu", "factorized",
         "distillation", "scaling")  # fmt: skip


def main() -> None:
    """Measure what the command line names, print tables, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", choices=["all", *PARTS], default="all")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds")
    parser.add_argument("--quick", action="store_true", help="one short round each")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark.json"))
    arguments = parser.parse_args()

    from rich.console import Console

    from scripts.benchmarks.parts import measure
    from scripts.benchmarks.results import results_table, write_results

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    for part in PARTS:
        if part in arguments.parts or "all" in arguments.parts:
            rows = measure(part, rounds=arguments.rounds, quick=arguments.quick)
            write_results(arguments.out, {part: rows})
            console.print(results_table(part, rows))
    print(f"Written to {arguments.out}")


if __name__ == "__main__":
    run_command(main)
