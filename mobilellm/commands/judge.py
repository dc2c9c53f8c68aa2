r"""Compare the chat answers of two models by a judge, a model behind an OpenAI-compatible URL.

Both models answer the conversations of a file (those without functions); with one model, its
answers are compared with the replies of the file. The judge sees each pair in both orders, since
judges prefer a position. The result is the share of pairs that the first model wins, ties counted
as half, with an interval over dialogues. With --out, the replies of the judge are kept, so that a
command that was interrupted continues, and no question is asked twice.

  mobilellm judge MODEL_DIR OTHER_DIR --conversations test.jsonl --judge NAME \
    --url http://localhost:8000/v1 --out judged
"""

import functools
import sys
from collections.abc import Sequence
from typing import NoReturn

from mobilellm.cli.command import run_command
from mobilellm.commands import command_parser
from mobilellm.paths import user_path


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; `arguments` default to the command line."""
    run_command(functools.partial(run, arguments))


def run(arguments: Sequence[str] | None) -> None:
    """Read the arguments, let the models answer and the judge compare, and print the result."""
    parser = command_parser("judge", __doc__)
    parser.add_argument("folders", nargs="+", type=user_path, metavar="RUN_OR_MODEL_DIR")
    parser.add_argument(
        "--conversations", type=user_path, required=True, metavar="PATH",
        help="held-out conversations, in a layout of data=conversations",
    )  # fmt: skip
    parser.add_argument("--url", required=True, help="such as http://localhost:8000/v1")
    parser.add_argument("--judge", required=True, metavar="NAME", help="the server's name for it")
    parser.add_argument(
        "--key-variable", metavar="NAME", help="environment variable with the key for the server"
    )
    parser.add_argument("--layout", metavar="NAME", help="as data.layout; default: auto")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N conversations")
    parser.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="most tokens of an answer (256)"
    )
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or mps; default: cpu")
    parser.add_argument("--out", type=user_path, metavar="DIR", help="for judge.json")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    options = vars(parser.parse_args(arguments))
    folders, is_json = options.pop("folders"), options.pop("format") == "json"
    if len(folders) > 2:
        raise ValueError(f"{len(folders)} models are given; give one or two")

    from mobilellm.pipeline.judge import JudgeSettings, judge_models
    from mobilellm.report.measure_text import measure_text
    from mobilellm.strict_json import to_json

    settings = JudgeSettings(**{k: v for k, v in options.items() if v is not None})
    record = judge_models(folders, settings)
    if is_json:
        sys.stdout.write(to_json(record) + "\n")
        return
    share = measure_text(record, "win_rate", is_per_cent=True)
    interval = " (interval of 95 %)" if "win_rate_interval" in record else ""
    print(f"{record['first']}\nagainst {record['second']}: wins {share} %{interval}")
    print(
        f"{record['pairs']} pairs: {record['wins']} won, {record['ties']} tied, {record['losses']} "
        f"lost; in {record['contradictory']} the judge preferred the same position twice; "
        f"{record['without_verdict']} without a verdict"
    )
