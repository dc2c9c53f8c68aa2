r"""Measure tokens and time until a loss is reached, beside LitGPT and Hugging Face's Trainer.

Learning rate and batch size of LitGPT, of Hugging Face's Trainer and of this project's AdamW with
cosine schedule are tuned with the same number of trials; this project's recipe is not tuned. Then
all are trained in alternation, with the same model shape, data, validation windows and threads.

  python scripts/time_to_loss.py data=wikitext2 model=by_budget model.budget=1e6 \
      model.match=body model.num_blocks=4 model.group_size=1 max_tokens=400_000
  python scripts/time_to_loss.py … --recipe optimizer=muon optimizer.learning_rate=2e-2

LITGPT_PYTHON names a Python that has the package litgpt, HUGGINGFACE_PYTHON one that has
transformers and accelerate. Outcomes are kept in --out: the same command continues where it ended.
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from mobilellm.cli.command import run_command

CONTENDERS = ("litgpt", "huggingface", "adamw")


def main() -> None:
    """Tune, measure, print the table, and write JSON."""
    arguments = _arguments()

    from rich.console import Console

    from scripts.benchmarks.time_to_loss.comparison import Comparison, compare
    from scripts.benchmarks.time_to_loss.table import CAPTION, table

    quick = arguments.quick
    comparison = Comparison(
        overrides=("trainer=cpu", *arguments.overrides),
        recipe=tuple(arguments.recipe),
        contenders=tuple(arguments.contenders),
        learning_rates=tuple(arguments.learning_rates[:2] if quick else arguments.learning_rates),
        tokens_per_step=arguments.tokens_per_step,
        widenings=0 if quick else arguments.widenings,
        shares=(0.5, 1.0) if quick else tuple(arguments.shares),
        seeds=(0,) if quick else tuple(arguments.seeds),
        threads=arguments.threads,
    )
    results = compare(comparison, arguments.out)
    console = Console(width=None if sys.stdout.isatty() else 80, highlight=False)
    console.print(table(results))
    print(CAPTION)
    print(f"Written to {arguments.out}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("overrides", nargs="*", metavar="KEY=VALUE", help="of `train`: model, data, lengths")
    add("--recipe", nargs="+", default=[], metavar="KEY=VALUE",
        help="further settings of this project's recipe (default: none, its defaults)")  # fmt: skip
    add("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS, help="default: all")
    add("--learning-rates", nargs="+", type=float, default=(1e-3, 2e-3, 4e-3, 8e-3),
        metavar="RATE", help="first rates of all (default: 1e-3 2e-3 4e-3 8e-3)")  # fmt: skip
    add("--tokens-per-step", type=int, default=512, help="first batch size (default: 512)")
    add("--widenings", type=int, default=3,
        help="how often a grid may grow in each direction (default: 3)")  # fmt: skip
    add("--shares", nargs="+", type=float, default=(0.4, 0.5, 0.6, 0.7, 0.85, 1.0),
        metavar="SHARE", help="budgets of our recipe, as shares of max_tokens (default: 0.4 0.5 "
        "0.6 0.7 0.85 1)")  # fmt: skip
    add("--seeds", nargs="+", type=int, default=(0, 1, 2), help="default: 0 1 2")
    add("--threads", type=int, default=1, help="of every process (default: 1)")
    add("--quick", action="store_true",
        help="two rates, one seed, two shares, to check that it runs")  # fmt: skip
    out = Path("outputs/time_to_loss.json")
    add("--out", type=Path, default=out, help=f"JSON file (default: {out})")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
