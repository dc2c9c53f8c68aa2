r"""Continue a prompt with a model: a model folder, a run folder, or a Hugging Face folder.

With --chat, the prompt is a message of the user, which the model's own chat template writes as the
text that the model was trained on, and only the answer is printed.

  mobilellm generate outputs/default/<run> --prompt "Once upon a time"
  mobilellm generate MODEL_DIR --chat --prompt "What is the capital of France?"
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
    parser.add_argument("--prompt", default="", help="text to continue (default: start a new one)")
    parser.add_argument(
        "--chat", action="store_true", help="answer the prompt by the model's chat template"
    )
    parser.add_argument("--system", metavar="TEXT", help="with --chat: message of the system")
    parser.add_argument("--max-new-tokens", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--temperature", type=float, default=0.0, help="0: greedy (default)")
    parser.add_argument("--top-k", type=int, help="sample only from the k most likely tokens")
    parser.add_argument(
        "--top-p",
        type=float,
        help="sample only from the most likely tokens with this total probability",
    )
    parser.add_argument(
        "--seed", type=int, help="seed of the sampling (default: a different one each time)"
    )
    parser.add_argument(
        "--tokenizer", type=user_path, help="tokenizer.model or .json (default: MODEL_DIR's own)"
    )
    options = parser.parse_args(arguments)
    _check(options)

    from mobilellm.inference.loaded_model import load

    loaded = load(options.folder, tokenizer=options.tokenizer)
    settings = {
        "max_new_tokens": options.max_new_tokens, "temperature": options.temperature,
        "top_k": options.top_k, "top_p": options.top_p, "seed": options.seed,
    }  # fmt: skip
    if not options.chat:
        print(loaded.generate(options.prompt, **settings))
        return
    system = [] if options.system is None else [{"role": "system", "content": options.system}]
    print(loaded.chat([*system, {"role": "user", "content": options.prompt}], **settings))


def _check(options: argparse.Namespace) -> None:
    """Check the arguments of a conversation.

    Raises:
        ValueError: --chat has no prompt, or --system is given without --chat.
    """
    if options.chat and not options.prompt:
        raise ValueError("--chat needs a message to answer; give --prompt TEXT")
    if options.system is not None and not options.chat:
        raise ValueError("--system has no effect without --chat; give both, or leave it out")
