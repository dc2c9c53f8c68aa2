"""Bring a Llama-type Hugging Face folder in as a model folder of this project."""

import argparse
import sys
from pathlib import Path

sys.path = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).parent]

from mobilellm.cli.command import run_command
from mobilellm.paths import user_path


def main() -> None:
    """Read the arguments, convert, say what was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", type=user_path, metavar="FOLDER", help="config.json, weights, tokenizer.model"
    )
    parser.add_argument(
        "--out", type=user_path, metavar="MODEL_DIR", required=True, help="new or empty folder"
    )
    arguments = parser.parse_args()
    out = arguments.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} is not an empty folder; name a new one")

    from mobilellm.checkpoint import save_model
    from mobilellm.data.tokenizer import load_tokenizer
    from mobilellm.files import TOKENIZER_FILE
    from mobilellm.formats.huggingface import import_huggingface
    from mobilellm.formats.special_tokens import with_tokenizer_ids

    model = import_huggingface(arguments.folder)
    path = arguments.folder / TOKENIZER_FILE
    tokenizer = path if path.exists() else None
    if tokenizer is not None:
        processor = load_tokenizer(tokenizer, model.config.vocab_size, name="tokenizer ")
        model.config = with_tokenizer_ids(model.config, processor)
    save_model(model, out, tokenizer)
    stored = sum(parameter.numel() for parameter in model.parameters())
    print(f"{out}: {stored:,} parameters{'' if tokenizer else ', no tokenizer.model'}")


if __name__ == "__main__":
    run_command(main)
