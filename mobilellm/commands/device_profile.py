"""Measure latencies of many shapes on this machine, to search or match shapes by latency.

Times every depth with every width, side by side in alternating rounds with random weights, and
writes a device profile. model=by_budget model.match=latency then finds the shape of a given depth
whose predicted latency is the budget, in milliseconds per token, and `mobilellm search` finds the
best shape within a limit. The predictions and their errors are printed. Other work on the machine
makes them less exact. Use the vocabulary size of your models, and depths and widths around those
you want.

  mobilellm device-profile --out device.json
  mobilellm device-profile --out phone.json --vocab-size 32000 --depths 4,12,30 --widths 256,512,768
  mobilellm train -m experiment=matched_latency model.latency_profile=device.json model.budget=2.5
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
    """Read the command line, measure, write the profile, and print the predictions."""
    parser = command_parser("device_profile", __doc__)
    parser.add_argument("--out", type=user_path, required=True, metavar="FILE", help="a new file")
    parser.add_argument("--depths", type=_numbers, metavar="N,N", help="default: 2,4,8,12,16")
    parser.add_argument(
        "--widths", type=_numbers, metavar="N,N", help="default: 32,64,96,128,192,256"
    )
    parser.add_argument(
        "--block-repeats", type=_numbers, metavar="N,N",
        help="how often each block runs; 1,2 also measures shared blocks; default: 1",
    )  # fmt: skip
    for name, text in (
        ("vocab-size", "entries of the vocabulary; default: 2048"),
        ("head-dim", "width of a head; default: 16"),
        ("group-size", "query heads per key-value head; default: 1"),
        ("context", "tokens of the prompt, before those that are decoded; default: 64"),
        ("tokens", "tokens decoded per round; default: 16"),
        ("rounds", "measurements of each shape; default: 30"),
        ("threads", "CPU threads; default: those of torch"),
    ):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=text)
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or mps; default: cpu")
    options = vars(parser.parse_args(arguments))
    given = {key: value for key, value in options.items() if value is not None}
    out = given.pop("out")

    from rich import box
    from rich.table import Table

    from mobilellm.pipeline.device_profile import (
        HEADS,
        ProfileGrid,
        check_profile_file,
        cost_of_depth,
        profile_device,
        profile_rows,
    )
    from mobilellm.units import plural

    check_profile_file(out)
    model = profile_device(out, ProfileGrid(**given))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))  # fits into 80 columns
    for head in HEADS:
        table.add_column(head, justify="right")
    for row in profile_rows(model):
        table.add_row(*row)
    console = make_console(120)
    console.print(table)
    console.print(
        "Milliseconds for the prompt (prefill) and per token (decode): median and 95th percentile "
        "over the rounds, and what the other shapes predict."
    )
    console.print(f"{model.profile.conditions}, {plural(model.profile.rounds, 'round')}.")
    for name, fitted in (("Prefill", model.prefill), ("Decode", model.decode)):
        if fitted is not None:
            console.print(f"{name}: {fitted.error_text}.")
    if (sentence := cost_of_depth(model)) is not None:
        console.print(sentence)
    console.print(f"Profile: {out}", soft_wrap=True)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of whole numbers; give e.g. 2,4,8"
        ) from None
