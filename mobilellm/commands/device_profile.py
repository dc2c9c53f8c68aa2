r"""Measure latencies of many shapes, or models in the engines of devices, on this machine.

Without MODEL, for search and matching by latency: times every depth with every width, side by side
in alternating rounds with random weights, and writes a device profile. model=by_budget
model.match=latency then finds the shape of a given depth whose predicted latency is the budget, in
milliseconds per token, and `mobilellm search` finds the best shape within a limit. The predictions
and their errors are printed. Other work on the machine makes them less exact. Use the vocabulary
size of your models, and depths and widths around those you want.

With MODEL and --engines: exports each model (a folder, or a preset with random weights, with
settings after a colon) for each engine, and measures file, load, init, time to first token, prefill
and decoding by length of prompt and threads, and peak memory, each in a process of its own and all
in alternation. What is measured is kept: the same command continues an interrupted measurement.
The exported files stay in a folder beside --out.

  mobilellm device-profile --out device.json
  mobilellm device-profile --out phone.json --vocab-size 32000 --depths 4,12,30 --widths 256,512,768
  mobilellm device-profile mobilellm_125m deep=mobilellm_125m:num_blocks=60 \
      --engines torch,llamacpp --types f32,q8_0 --out engines.json
  mobilellm train -m experiment=matched_latency model.latency_profile=device.json model.budget=2.5
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

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
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="folder, PRESET or PRESET:key=value,…; NAME=…"
    )
    parser.add_argument("--out", type=user_path, required=True, metavar="FILE", help="a new file")
    _add_shape_options(parser)
    _add_model_options(parser)
    for name, kind, text in (
        ("tokens", int, "tokens decoded per round; default: 16"),
        ("rounds", int, "measurements of each; default: 30"),
        (
            "threads",
            _numbers,
            "CPU threads; default: those of torch; with MODEL several, default: 1",
        ),
    ):
        parser.add_argument(f"--{name}", type=kind, metavar="N", help=text)
    options = vars(parser.parse_args(arguments))
    given = {key: value for key, value in options.items() if value not in (None, [])}
    out, models = given.pop("out"), given.pop("models", [])
    _check_options(given, with_models=bool(models))
    if models:
        _profile_models(models, out, given)
    else:
        _profile_shapes(out, given)


_SHAPE_OPTIONS = ("depths", "widths", "block_repeats", "vocab_size", "head_dim", "group_size",
                  "context", "device")  # fmt: skip
_MODEL_OPTIONS = ("engines", "types", "prompt_lengths")


def _add_shape_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("without MODEL: a grid of shapes in torch")
    group.add_argument("--depths", type=_numbers, metavar="N,N", help="default: 2,4,8,12,16")
    group.add_argument(
        "--widths", type=_numbers, metavar="N,N", help="default: 32,64,96,128,192,256"
    )
    group.add_argument(
        "--block-repeats", type=_numbers, metavar="N,N",
        help="how often each block runs; 1,2 also measures shared blocks; default: 1",
    )  # fmt: skip
    for name, text in (
        ("vocab-size", "entries of the vocabulary; default: 2048"),
        ("head-dim", "width of a head; default: 16"),
        ("group-size", "query heads per key-value head; default: 1"),
        ("context", "tokens of the prompt, before those that are decoded; default: 64"),
    ):
        group.add_argument(f"--{name}", type=int, metavar="N", help=text)
    group.add_argument("--device", metavar="NAME", help="cpu, cuda or mps; default: cpu")


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("with MODEL: models in engines")
    group.add_argument(
        "--engines", type=_names, metavar="NAME,NAME", help="torch, llamacpp and executorch"
    )
    group.add_argument(
        "--types", type=_names, metavar="TYPE,TYPE",
        help="torch: f32; llamacpp: f32, f16, q8_0, q4_0, q4_1; executorch: fp32, 8da8w, 8da4w; "
        "default: the first of each engine",
    )  # fmt: skip
    group.add_argument(
        "--prompt-lengths", type=_numbers, metavar="N,N", help="tokens; default: 16,128"
    )


def _check_options(given: dict[str, Any], *, with_models: bool) -> None:
    """Refuse options of the other use.

    Raises:
        ValueError: an option has no effect, or --engines is missing.
    """
    other = _SHAPE_OPTIONS if with_models else _MODEL_OPTIONS
    wrong = next((name for name in other if name in given), None)
    if wrong is not None:
        state = "with MODEL" if with_models else "without MODEL"
        remedy = "leave it out" if with_models else "leave it out, or name models"
        raise ValueError(f"--{wrong.replace('_', '-')} has no effect {state}; {remedy}")
    if with_models and "engines" not in given:
        raise ValueError("MODEL needs --engines; give e.g. --engines torch,llamacpp")
    if not with_models and "threads" in given:
        if len(given["threads"]) > 1:
            raise ValueError("--threads takes one number without MODEL; give e.g. --threads 1")
        given["threads"] = given["threads"][0]


def _profile_models(texts: Sequence[str], out: Path, given: dict[str, Any]) -> None:
    """Measure models in engines, write the result, and print it."""
    from mobilellm.pipeline.engine_profile import EngineGrid, profile_engines
    from mobilellm.report.engine_profile import profile_sentences, profile_tables

    profile = profile_engines(texts, EngineGrid(**given), out)
    console = make_console(80)
    for table in profile_tables(profile):
        console.print(table)
    for sentence in profile_sentences(profile):
        console.print(sentence)
    console.print(f"Profile: {out}", soft_wrap=True)


def _profile_shapes(out: Path, given: dict[str, Any]) -> None:
    """Measure a grid of shapes, write the profile, and print the predictions."""
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


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))
