"""Continue a prompt with a model of this project, of a run, or of a Hugging Face folder."""

import argparse
import sys
from pathlib import Path

sys.path = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).parent]

from mobilellm.cli.command import run_command
from mobilellm.paths import user_path


def main() -> None:
    """Read the arguments, print the text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", type=user_path, metavar="MODEL_DIR", help="model, run or Hugging Face folder"
    )
    parser.add_argument("--prompt", default="", help="text to continue (default: start a new one)")
    parser.add_argument("--max-new-tokens", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--temperature", type=float, default=0.0, help="0: greedy (default)")
    parser.add_argument("--top-k", type=int, help="sample among the k likeliest tokens only")
    parser.add_argument("--top-p", type=float, help="sample among the likeliest of this share")
    parser.add_argument("--seed", type=int, help="of the sampling (default: another each time)")
    parser.add_argument(
        "--tokenizer", type=user_path, help="SentencePiece model (default: MODEL_DIR's own)"
    )
    arguments = parser.parse_args()

    from mobilellm.inference.loaded_model import load

    loaded = load(arguments.folder, tokenizer=arguments.tokenizer)
    print(
        loaded.generate(
            arguments.prompt, arguments.max_new_tokens, temperature=arguments.temperature,
            top_k=arguments.top_k, top_p=arguments.top_p, seed=arguments.seed,
        )
    )  # fmt: skip


if __name__ == "__main__":
    run_command(main)
