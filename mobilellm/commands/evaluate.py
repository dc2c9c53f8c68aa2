"""Evaluate models: benchmark tasks, and perplexity and bits per byte of texts.

Models are runs, folders that this project saved, or Hugging Face folders. Tasks are those of the
lm-evaluation-harness (pip install 'mobilellm[evaluation]'), by name, and `mobilellm`: the eight of
the MobileLLM paper; and api_calling and chat, which let the model write the turns of held-out
conversations (--conversations): exact match of function calls, Rouge of replies, and losses,
beside a random and a majority baseline. --data names a folder with <task>/<split>.jsonl, so that no
network is needed.
Of tasks with choices, bits per byte of the right answer and the probability margin are given as
well, since they vary less than accuracy. Several models are compared on equal documents, and a
table shows which measures could tell them apart. Results are kept in evaluation.json in the folder
of a run, or of --out; a command that was interrupted continues with the next task.

  mobilellm evaluate outputs/default/<run> --tasks mobilellm --data benchmarks
  mobilellm evaluate MODEL_DIR OTHER_DIR --tasks hellaswag,piqa --limit 200
  mobilellm evaluate MODEL_DIR --tasks arc_easy --num-fewshot 5
  mobilellm evaluate MODEL_DIR --text valid.txt --window 512
  mobilellm evaluate MODEL_DIR --text stories.jsonl --max-windows 64
  mobilellm evaluate MODEL_DIR --text wiki.test.raw --protocol meta
  mobilellm evaluate MODEL_DIR --tasks piqa --format json
  mobilellm evaluate MODEL_DIR --tasks api_calling,chat --conversations test.jsonl
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
    """Read the command line, evaluate the models, and print tables or JSON."""
    options = vars(_parser().parse_args(arguments))
    folders, is_json = options.pop("folders"), options.pop("format") == "json"

    from mobilellm.pipeline.evaluate import evaluate_models
    from mobilellm.pipeline.evaluation_settings import EvaluationSettings
    from mobilellm.report.evaluation_pairs import compare_evaluations, pair_records
    from mobilellm.report.evaluation_table import evaluation_report
    from mobilellm.strict_json import to_json

    settings = EvaluationSettings(**{k: v for k, v in options.items() if v is not None})
    found = evaluate_models(folders, settings)
    pairs = compare_evaluations(found.evaluations)
    if is_json:
        records = [evaluation.record() for evaluation in found.evaluations]
        if len(records) > 1:
            comparisons = pair_records(pairs)
            for record in records:
                record["comparisons"] = [p for p in comparisons if p["first"] == record["model"]]
        sys.stdout.write(to_json(records[0] if len(records) == 1 else records) + "\n")
        for note in found.notes:
            sys.stderr.write(f"note: {note}\n")
        return
    report = evaluation_report(
        found.evaluations, pairs, found.signals, found.notes, names=found.names
    )
    make_console(100).print(report)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("evaluate", __doc__)
    parser.add_argument("folders", nargs="+", type=user_path, metavar="RUN_OR_MODEL_DIR")
    tasks = parser.add_argument_group("tasks")
    tasks.add_argument(
        "--tasks", type=_names, metavar="A,B", help="tasks, groups or patterns such as blimp_*"
    )
    tasks.add_argument(
        "--data", type=user_path, metavar="DIR", help="rows of the tasks: DIR/<task>/<split>.jsonl"
    )
    tasks.add_argument("--limit", type=int, metavar="N", help="the first N documents of each task")
    tasks.add_argument(
        "--num-fewshot", type=int, metavar="N", help="solved examples before each question"
    )
    tasks.add_argument(
        "--chat", action="store_true", help="prompts in the chat template of the model"
    )
    tasks.add_argument(
        "--again", action="store_true", help="evaluate again what was evaluated before"
    )
    _add_conversations(parser.add_argument_group("conversations (api_calling, chat)"))
    texts = parser.add_argument_group("texts")
    texts.add_argument(
        "--text", nargs="+", type=user_path, metavar="FILE",
        help="a text; or .jsonl with one document a line, in the field text",
    )  # fmt: skip
    texts.add_argument(
        "--protocol", choices=("documents", "meta", "strided"),
        help="windows: documents (default); meta: WikiText-2 as in MobileLLM; strided: as in the "
        "documentation of Hugging Face",
    )  # fmt: skip
    texts.add_argument("--window", type=int, metavar="N", help="tokens per window (documents: 512)")
    texts.add_argument("--stride", type=int, metavar="N", help="default: no overlap; strided: half")
    texts.add_argument("--max-windows", type=int, metavar="N", help="the first N windows")
    parser.add_argument(
        "--add-bos", action=argparse.BooleanOptionalAction,
        help="begin texts with the begin-of-text token; default: as the model's files say",
    )  # fmt: skip
    parser.add_argument("--tokenizer", type=user_path, help="default: the model's own")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or mps; default: cpu")
    parser.add_argument(
        "--dtype", metavar="TYPE",
        help="float32 (default), or bfloat16 or float16, which are faster on devices that multiply "
        "them, and change scores a little",
    )  # fmt: skip
    parser.add_argument(
        "--batch-tokens", type=int, metavar="N", help="tokens per forward pass; no effect on scores"
    )
    parser.add_argument("--out", type=user_path, metavar="DIR", help="folder for evaluation.json")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    return parser


def _add_conversations(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--conversations", type=user_path, metavar="PATH",
        help="held-out conversations, in a layout of data=conversations; or a folder of prepared "
        "data, whose validation conversations are used",
    )  # fmt: skip
    group.add_argument(
        "--train", type=user_path, metavar="PATH",
        help="training conversations: for the baselines, and to report functions that were not "
        "seen in training apart; conversations that are held out are left out of it",
    )  # fmt: skip
    group.add_argument("--layout", metavar="NAME", help="as data.layout; default: auto")
    group.add_argument(
        "--constrained", action="store_true",
        help="generate function calls also with constrained decoding",
    )  # fmt: skip
    group.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="most tokens of an answer (256)"
    )
    group.add_argument("--parser-role", metavar="ROLE", help="as data.parser_role in training")
    group.add_argument("--tool-role", metavar="ROLE", help="as data.tool_role in training")
    group.add_argument("--tools", metavar="FORMAT", help="as data.tools in training")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
