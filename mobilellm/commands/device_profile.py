r"""Measure latencies of many shapes, or models in the engines of devices, on this machine.

Without MODEL, for search and matching by latency: times every depth with every width, side by side
in alternating rounds with random weights, and writes a device profile. model=by_budget
model.match=latency then finds the shape of a given depth whose predicted latency is the budget, in
milliseconds per token, and `mobilellm search` finds the best shape within a limit. The predictions
and their errors are printed. Other work on the machine makes them less exact. Use the vocabulary
size of your models, and depths and widths around those you want.

With MODEL and --engines: exports each model (a folder, or a preset with random weights, with
settings after a colon) for each engine, and measures file, load, init, time to first token, prefill
and decoding by length of prompt and threads, and peak memory, all in alternation and each time in a
new process. What is measured is kept: the same command continues an interrupted measurement.
The exported files stay in a folder beside --out. With --bundle, nothing is measured: the models are
written with a script that measures them on another device. --results shows what came back, and
`mobilellm compare --latency-from` uses it for its verdict at equal latency.

  mobilellm device-profile --out device.json
  mobilellm device-profile --out phone.json --vocab-size 32000 --depths 4,12,30 --widths 256,512,768
  mobilellm device-profile mobilellm_125m deep=mobilellm_125m:num_blocks=60 \
      --engines torch,llamacpp --types f32,q8_0 --out engines.json --fits 6GB --page page
  mobilellm device-profile outputs/a outputs/b --engines llamacpp --types q8_0,q4_0 --bundle bundle
  mobilellm device-profile --results results.json --fits 6GB --share 0.1
  mobilellm train -m experiment=matched_latency model.latency_profile=device.json model.budget=2.5
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mobilellm.cli.command import run_command
from mobilellm.cli.console import make_console
from mobilellm.commands import command_parser
from mobilellm.paths import user_path
from mobilellm.units import bytes_from, bytes_text

if TYPE_CHECKING:
    from mobilellm.evaluation.engine_profile.results import EngineProfile
    from mobilellm.pipeline.engine_profile import EngineGrid
    from mobilellm.report.device_fit import MemoryLimit


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; `arguments` default to the command line."""
    run_command(functools.partial(run, arguments))


def run(arguments: Sequence[str] | None) -> None:
    """Read the command line, measure, write the profile, and print the predictions."""
    parser = command_parser("device_profile", __doc__)
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="folder, PRESET or PRESET:key=value,…; NAME=…"
    )
    parser.add_argument("--out", type=user_path, metavar="FILE", help="a new file")
    _add_shape_options(parser)
    _add_model_options(parser)
    _add_report_options(parser)
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
    _check_options(given)
    if "results" in given:
        _show_results(given)
    elif "bundle" in given:
        _write_bundle(given)
    elif "models" in given:
        _profile_models(given)
    else:
        _profile_shapes(given.pop("out"), given)


_MEASURED = ("tokens", "rounds", "threads")
_SHAPES = ("depths", "widths", "block_repeats", "vocab_size", "head_dim", "group_size", "context",
           "device")  # fmt: skip
_MODELS = ("models", "engines", "types", "prompt_lengths")
_REPORT = ("fits", "share", "context", "page")
_USES = {
    "without MODEL": ("out", *_MEASURED, *_SHAPES),
    "with MODEL": ("out", *_MEASURED, *_MODELS, *_REPORT),
    "with --bundle": ("bundle", *_MEASURED, *_MODELS),
    "with --results": ("results", *_REPORT),
}
"""The options that each use of the command has."""


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
        (
            "context",
            "tokens of the prompt, before those that are decoded; default: 64. With "
            "--fits: tokens in the KV cache; default: all positions of a model",
        ),
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
    group.add_argument(
        "--bundle", type=user_path, metavar="FOLDER",
        help="a new folder, which measures the models on another device; instead of --out",
    )  # fmt: skip


def _add_report_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("with MODEL and --out, or with --results")
    group.add_argument(
        "--results", type=user_path, nargs="+", metavar="FILE",
        help="show what bundles measured elsewhere, or --out before; nothing is measured",
    )  # fmt: skip
    group.add_argument(
        "--fits", metavar="BYTES",
        help="show which models fit into --share of a device's memory, such as 6GB",
    )  # fmt: skip
    group.add_argument("--share", type=float, metavar="X", help="default: 0.1, as in the paper")
    group.add_argument("--page", type=user_path, metavar="FOLDER", help="write a page with plots")


def _check_options(given: dict[str, Any]) -> None:
    """Refuse options of another use, and what is missing.

    Raises:
        ValueError: an option has no effect, or one is missing.
    """
    models = "with MODEL" if "models" in given else "without MODEL"
    use = next((f"with --{name}" for name in ("results", "bundle") if name in given), models)
    wrong = next((name for name in given if name not in _USES[use]), None)
    if wrong is not None:
        name = "MODEL" if wrong == "models" else f"--{wrong.replace('_', '-')}"
        remedy = "leave it out"
        if use == "without MODEL":
            remedy += ", or give --results" if wrong in _REPORT else ", or name models"
        raise ValueError(f"{name} has no effect {use}; {remedy}")
    _check_needed(given, use)
    if use == "without MODEL" and "threads" in given:
        if len(given["threads"]) > 1:
            raise ValueError("--threads takes one number without MODEL; give e.g. --threads 1")
        given["threads"] = given["threads"][0]


def _check_needed(given: dict[str, Any], use: str) -> None:
    """Refuse options without those that they need.

    Raises:
        ValueError: one is missing.
    """
    for name, needed, message in (
        (use, "out", "--out is required; give the name of a new file, e.g. --out device.json"),
        ("bundle", "models", "--bundle needs MODEL; give folders of models, or presets"),
        ("models", "engines", "MODEL needs --engines; give e.g. --engines torch,llamacpp"),
        ("share", "fits", "--share has no effect without --fits; give e.g. --fits 6GB"),
    ):
        if (name in given or name == use) and needed in _USES[use] and needed not in given:
            raise ValueError(message)
    if use != "without MODEL" and "context" in given and "fits" not in given:
        raise ValueError("--context has no effect without --fits; give e.g. --fits 6GB")


def _grid(given: dict[str, Any]) -> "EngineGrid":
    from mobilellm.pipeline.engine_profile import EngineGrid

    names = ("engines", "types", "prompt_lengths", *_MEASURED)
    return EngineGrid(**{name: given[name] for name in names if name in given})


def _limit(given: dict[str, Any]) -> "MemoryLimit | None":
    """The memory of --fits, if it is given."""
    if "fits" not in given:
        return None
    from mobilellm.report.device_fit import MemoryLimit

    settings = {name: given[name] for name in ("share", "context") if name in given}
    return MemoryLimit(device_bytes=bytes_from("--fits", given["fits"]), **settings)


def _profile_models(given: dict[str, Any]) -> None:
    """Measure models in engines, write the result, and print it."""
    from mobilellm.pipeline.engine_profile import profile_engines
    from mobilellm.pipeline.profiled_models import find_models

    limit, grid = _limit(given), _grid(given)
    _check_page(given)
    if limit is not None:
        for model in find_models(given["models"]):
            limit.context_of(model.name, model.config)
    profile = profile_engines(given["models"], grid, given["out"])
    _print([profile], limit, given.get("page"))
    make_console(80).print(f"Profile: {given['out']}", soft_wrap=True)


def _write_bundle(given: dict[str, Any]) -> None:
    """Write a bundle, and say how it is used."""
    from mobilellm.pipeline.profile_bundle import README, write_bundle

    folder = given["bundle"]
    plan = write_bundle(given["models"], _grid(given), folder)
    size = sum({case.path: case.file_bytes for case in plan.cases}.values())
    console = make_console(80)
    console.print(
        f"Bundle: {folder}, {bytes_text(size)} of models. Copy it to the device, run `python3 "
        f"run.py` in it, and read what it writes with `mobilellm device-profile --results "
        f"results.json` ({folder / README} says more).",
        soft_wrap=True,
    )


def _show_results(given: dict[str, Any]) -> None:
    """Print the results of other devices or of earlier measurements."""
    from mobilellm.evaluation.engine_profile.results import read_result

    limit = _limit(given)
    _check_page(given)
    _print([read_result(path) for path in given["results"]], limit, given.get("page"))


def _check_page(given: dict[str, Any]) -> None:
    if "page" in given:
        from mobilellm.report.engine_page import check_page_folder

        check_page_folder(given["page"])


def _print(
    profiles: "Sequence[EngineProfile]", limit: "MemoryLimit | None", page: Path | None
) -> None:
    """Print tables and sentences of each profile, and write the page if it is asked for."""
    from mobilellm.report.device_fit import profile_parts
    from mobilellm.report.engine_page import write_engine_page

    console = make_console(80)
    for profile in profiles:
        for part in profile_parts(profile, limit):
            console.print(part)
    if page is not None:
        console.print(f"Page: {write_engine_page(profiles, page, limit)}", soft_wrap=True)


def _profile_shapes(out: Path, given: dict[str, Any]) -> None:
    """Measure a grid of shapes, write the profile, and print the predictions."""
    from mobilellm.pipeline.device_profile import (
        ProfileGrid,
        check_profile_file,
        profile_device,
        profile_parts,
    )

    check_profile_file(out)
    console = make_console(120)
    for part in profile_parts(profile_device(out, ProfileGrid(**given))):
        console.print(part)
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
