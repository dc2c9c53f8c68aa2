r"""Continue a prompt with a model: a model folder, a run folder, or a Hugging Face folder.

With --chat, the prompt is a message of the user, which the model's own chat template writes as the
text that the model was trained on, and only the answer is printed.

With --data, all prompts of a file are answered, as the training data of a smaller model. A row has
`prompt`, or a conversation in a layout of data=conversations; or --prompt is a text with columns of
the rows in braces. Answers that were cut off or are empty are left out and counted in
OUT.manifest.json. A command that was interrupted continues.

  mobilellm generate outputs/default/<run> --prompt "Once upon a time"
  mobilellm generate MODEL_DIR --chat --prompt "What is the capital of France?"
  mobilellm generate TEACHER --chat --data prompts.jsonl --out answers.jsonl
  mobilellm generate TEACHER --chat --data questions.jsonl --out rationales.jsonl \
    --prompt "{question} ({choices}) Why is the answer {answer}?" --column rationale
"""

import argparse
import functools
from collections.abc import Sequence
from typing import NoReturn

from mobilellm.cli.command import run_command
from mobilellm.commands import command_parser
from mobilellm.paths import user_path


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; `arguments` default to the command line."""
    run_command(functools.partial(run, arguments))


def run(arguments: Sequence[str] | None) -> None:
    """Read the arguments and print the generated text."""
    parser = command_parser("generate", __doc__)
    parser.add_argument(
        "folder", type=user_path, metavar="MODEL_DIR", help="model, run or Hugging Face folder"
    )
    parser.add_argument("--prompt", help="text to continue (default: start a new one)")
    parser.add_argument(
        "--chat", action="store_true", help="answer the prompt by the model's chat template"
    )
    parser.add_argument("--system", metavar="TEXT", help="with --chat: message of the system")
    parser.add_argument("--max-new-tokens", type=int, help="default: 100; with --data 256")
    parser.add_argument("--temperature", type=float, default=0.0, help="0: greedy (default)")
    parser.add_argument("--top-k", type=int, help="sample only from the k most likely tokens")
    parser.add_argument(
        "--top-p",
        type=float,
        help="sample only from the most likely tokens with this total probability",
    )
    parser.add_argument(
        "--seed", type=int,
        help="seed of the sampling (default: a different one each time; with --data 0)",
    )  # fmt: skip
    parser.add_argument(
        "--tokenizer", type=user_path, help="tokenizer.model or .json (default: MODEL_DIR's own)"
    )
    _add_data(parser.add_argument_group("a file of prompts"))
    options = parser.parse_args(arguments)
    _check(options)
    from mobilellm.models.generation import check_sampling

    settings = {
        "max_new_tokens": 100 if options.max_new_tokens is None else options.max_new_tokens,
        "temperature": options.temperature, "top_k": options.top_k, "top_p": options.top_p,
        "seed": options.seed,
    }  # fmt: skip
    check_sampling(**settings)
    if options.data is not None:
        _answer_file(options)
        return

    from mobilellm.inference.loaded_model import load

    loaded = load(options.folder, tokenizer=options.tokenizer)
    if not options.chat:
        print(loaded.generate(options.prompt or "", **settings))
        return
    system = [] if options.system is None else [{"role": "system", "content": options.system}]
    print(loaded.chat([*system, {"role": "user", "content": options.prompt}], **settings))


def _add_data(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--data", type=user_path, metavar="FILE", help="JSON lines or Parquet")
    group.add_argument("--out", type=user_path, metavar="FILE", help="new file of JSON lines")
    group.add_argument(
        "--column", metavar="NAME",
        help="add the answers to the rows, in this column (default: rows of prompt and completion, "
        "or of messages)",
    )  # fmt: skip
    group.add_argument("--limit", type=int, metavar="N", help="answer the first N rows only")
    group.add_argument("--batch-size", type=int, metavar="N", help="prompts at a time (16)")
    group.add_argument("--device", metavar="NAME", help="cpu, cuda or mps (default: cpu)")


def _answer_file(options: argparse.Namespace) -> None:
    """Answer the prompts of a file, and print what was written."""
    from mobilellm.inference.answering import Answering
    from mobilellm.inference.loaded_model import load
    from mobilellm.inference.prompt_rows import PromptRows, check_template
    from mobilellm.pipeline.device import check_device
    from mobilellm.pipeline.generate_data import AnsweredFile, generate_data

    device = options.device or "cpu"
    check_device(device, "--device cpu")
    if options.prompt is not None:
        check_template(options.prompt)
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "seed", "batch_size")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    task = AnsweredFile(
        data=options.data, out=options.out, limit=options.limit, answering=Answering(**given),
        rows=PromptRows(
            template=options.prompt, column=options.column, chat=options.chat, system=options.system
        ),
    )  # fmt: skip
    loaded = load(options.folder, tokenizer=options.tokenizer)
    loaded.model.to(device)
    counts = generate_data(loaded, task)["counts"]
    left_out = ", ".join(f"{counts[name]:,} {name.replace('_', ' ')}"
                         for name in ("cut_off", "empty", "too_long") if counts[name])  # fmt: skip
    print(
        f"{task.out}: {counts['written']:,} rows, {counts['new_tokens']:,} generated tokens"
        f"{f'; left out: {left_out}' if left_out else ''}"
    )


def _check(options: argparse.Namespace) -> None:
    """Check arguments that depend on each other.

    Raises:
        ValueError: an argument is missing, or has no effect.
    """
    of_files = ("out", "column", "limit", "batch_size", "device")
    if options.data is not None and options.out is None:
        raise ValueError("--data needs a file for the answers; give --out FILE.jsonl")
    for name in of_files if options.data is None else ():
        if getattr(options, name) is not None:
            raise ValueError(
                f"--{name.replace('_', '-')} has no effect without --data; give both, or leave it "
                "out"
            )
    if options.chat and not options.prompt and options.data is None:
        raise ValueError("--chat needs a message to answer; give --prompt TEXT")
    if options.system is not None and not options.chat:
        raise ValueError("--system has no effect without --chat; give both, or leave it out")
