"""Continue a prompt with a model: a model folder, a run folder, or a Hugging Face folder."""

import argparse
import functools
from collections.abc import Sequence
from typing import NoReturn

from mobilellm.cli.command import run_command
from mobilellm.command_names import command_for
from mobilellm.commands import description
from mobilellm.paths import user_path


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; `arguments` default to the command line."""
    run_command(functools.partial(run, arguments))


def run(arguments: Sequence[str] | None) -> None:
    """Read the arguments and print the generated text."""
    parser = argparse.ArgumentParser(prog=command_for("generate"), description=description(__doc__))
    parser.add_argument(
        "folder", type=user_path, metavar="MODEL_DIR", help="model, run or Hugging Face folder"
    )
    parser.add_argument("--prompt", default="", help="text to continue (default: start a new one)")
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
        "--tokenizer", type=user_path, help="SentencePiece model (default: MODEL_DIR's own)"
    )
    options = parser.parse_args(arguments)

    from mobilellm.inference.loaded_model import load

    loaded = load(options.folder, tokenizer=options.tokenizer)
    print(
        loaded.generate(
            options.prompt, options.max_new_tokens, temperature=options.temperature,
            top_k=options.top_k, top_p=options.top_p, seed=options.seed,
        )
    )  # fmt: skip
