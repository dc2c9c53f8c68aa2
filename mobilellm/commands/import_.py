"""Convert a Hugging Face folder with a Llama model into a model folder of this project."""

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
    """Read the arguments, convert the model and print a summary."""
    parser = argparse.ArgumentParser(prog=command_for("import"), description=description(__doc__))
    parser.add_argument(
        "folder", type=user_path, metavar="FOLDER", help="config.json, weights, tokenizer.model"
    )
    parser.add_argument(
        "--out", type=user_path, metavar="MODEL_DIR", required=True, help="new or empty folder"
    )
    options = parser.parse_args(arguments)
    out = options.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} is not an empty folder; give a new one")

    from mobilellm.checkpoint import save_model
    from mobilellm.data.tokenizer import load_tokenizer
    from mobilellm.files import TOKENIZER_FILE
    from mobilellm.formats.huggingface import import_huggingface
    from mobilellm.formats.special_tokens import with_tokenizer_ids

    model = import_huggingface(options.folder)
    path = options.folder / TOKENIZER_FILE
    tokenizer = path if path.exists() else None
    if tokenizer is not None:
        processor = load_tokenizer(tokenizer, model.config.vocab_size, name="tokenizer ")
        model.config = with_tokenizer_ids(model.config, processor)
    save_model(model, out, tokenizer)
    stored = sum(parameter.numel() for parameter in model.parameters())
    print(f"{out}: {stored:,} parameters{'' if tokenizer else ', no tokenizer.model'}")
