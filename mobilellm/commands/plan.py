"""Recommend shape and tokens for a compute budget, by the law of a ladder's losses.

Fits the law to the runs of a ladder (mobilellm train -m experiment=ladder) and looks for the shape
with the lowest expected loss: more parameters leave fewer tokens. Says how far the recommendation
is outside the range of the runs, and whether the law can tell the best shapes apart.

  mobilellm plan outputs/ladder --flops 1e15
  mobilellm plan outputs/ladder --hours 3
  mobilellm plan outputs/ladder/comparison/comparison.json --hours 24 --flops-per-second 2e13
  mobilellm plan outputs/ladder --flops 1e15 --max-bytes 1e6 --bits 4 --context 512
  mobilellm plan outputs/ladder --flops 1e15 --max-latency-ms 2 --latency-profile device.json

--hours are those of the device that trained the ladder, by the measured rates of its runs, or of a
device with --flops-per-second. Latencies are those of a device that mobilellm device-profile has
measured, at the vocabulary of the ladder.
"""

import argparse
import functools
import sys
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
    """Read the command line, plan, and print the plan."""
    options = _parser().parse_args(arguments)

    from mobilellm.report.shape_planning import PlanRequest, make_plan
    from mobilellm.strict_json import to_json

    request = PlanRequest(
        source=options.ladder, flops=options.flops, hours=options.hours,
        flops_per_second=options.flops_per_second, max_bytes=options.max_bytes, bits=options.bits,
        max_latency_ms=options.max_latency_ms, latency_profile=options.latency_profile,
        context=options.context,
    )  # fmt: skip
    report = make_plan(request)
    if options.format == "json":
        sys.stdout.write(to_json(report.record(), ensure_ascii=False) + "\n")
        return
    console = make_console(120)
    for line in report.lines():
        # The command, which is indented, is copied as one line.
        console.print(line, markup=False, soft_wrap=line.startswith(" "))


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("plan", __doc__)
    parser.add_argument(
        "ladder", type=user_path, metavar="LADDER_DIR_OR_JSON",
        help="folder of a ladder's runs, or the comparison.json of its report",
    )  # fmt: skip
    parser.add_argument("--flops", type=float, metavar="F", help="FLOPs of the training run")
    parser.add_argument("--hours", type=float, metavar="H", help="hours of the training run")
    parser.add_argument(
        "--flops-per-second", type=float, metavar="R",
        help="training FLOPs per second of another device, for --hours",
    )  # fmt: skip
    parser.add_argument(
        "--max-bytes", type=float, metavar="B",
        help="of the weights, and of the KV cache if --context is given",
    )  # fmt: skip
    parser.add_argument(
        "--bits", type=int, metavar="N", help="bits per weight for --max-bytes; default: 16"
    )
    parser.add_argument(
        "--max-latency-ms", type=float, metavar="MS", help="milliseconds per decoded token"
    )
    parser.add_argument(
        "--latency-profile", type=user_path, metavar="FILE", help="device profile for the latency"
    )
    parser.add_argument(
        "--context", type=int, metavar="N",
        help="tokens that the model reads; default: as the ladder's models",
    )  # fmt: skip
    parser.add_argument("--format", choices=("text", "json"), default="text")
    return parser
