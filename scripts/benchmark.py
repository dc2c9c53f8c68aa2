"""Measure speed and memory side by side with other projects; print medians of alternating rounds.

  python scripts/benchmark.py                    measure everything
  python scripts/benchmark.py train decode       measure some parts
  python scripts/benchmark.py all --quick        one short round each, to check that it runs

Parts:
  train         training steps, compared with Hugging Face's Llama
  litgpt        training steps, compared with LitGPT's GPT (LITGPT_PYTHON: a Python that has it)
  memory        peak memory of a training step
  decode        generation, compared with Hugging Face's generate
  loop          Lightning's loop with logging, compared with a bare loop
  startup       time from the command to the first step
  data          preparation of text
  gpu           training and decoding on a GPU, in parts; those in the file already are kept
  factorized    factorised feed-forward layers, compared with dense ones
  muon          steps of Muon in batches, compared with torch's
  distillation  steps with a teacher or with its stored logits, compared with steps on labels alone
  adapters      steps of LoRA, DoRA and QLoRA, compared with steps of all weights
  adapter_memory  peak memory of LoRA, DoRA and QLoRA on a real shape, compared with all weights
                (BENCHMARK_MODEL: the folder of a model; default: the shape of SmolLM2-135M)
  scaling       one process compared with two, and the forecast for both
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from mobilellm.cli.command import run_command

PARTS = ("train", "litgpt", "memory", "decode", "loop", "startup", "data", "gpu", "factorized",
         "muon", "distillation", "adapters", "adapter_memory", "scaling")  # fmt: skip


def main() -> None:
    """Measure the parts that the command line names, print tables, and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", choices=["all", *PARTS], default="all")
    parser.add_argument(
        "--rounds", type=int, default=5, help="number of alternating rounds (default: 5)"
    )
    parser.add_argument("--quick", action="store_true", help="one short round each")
    out = Path("outputs/benchmark.json")
    parser.add_argument("--out", type=Path, default=out, help=f"JSON file (default: {out})")
    arguments = parser.parse_args()

    from rich.console import Console

    from scripts.benchmarks.results import results_table, write_results

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    for part in PARTS:
        if part in arguments.parts or "all" in arguments.parts:
            for name, rows in measured(part, arguments):
                write_results(arguments.out, {name: rows})
                console.print(results_table(name, rows))
    print(f"Written to {arguments.out}")


def measured(part: str, arguments: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """The rows of a part by the name under which they are kept; `gpu` has several names."""
    if part == "gpu":
        from scripts.benchmarks.gpu import measure_gpu
        from scripts.benchmarks.results import known_results

        known = known_results(arguments.out)
        yield from measure_gpu(known, rounds=arguments.rounds, quick=arguments.quick)
        return
    from scripts.benchmarks.parts import measure

    yield part, measure(part, rounds=arguments.rounds, quick=arguments.quick)


if __name__ == "__main__":
    run_command(main)
