"""Bring a Llama-type Hugging Face folder in as a model folder of this project."""

import argparse
import sys
from pathlib import Path

sys.path = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).parent]

from mobilellm.launchers.command import run_command


def main() -> None:
    """Read the arguments, convert, say what was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="config.json, weights, tokenizer.model")
    parser.add_argument("--out", metavar="MODEL_DIR", required=True, help="new or empty folder")
    arguments = parser.parse_args()
    out = Path(arguments.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} is not an empty folder; name a new one")

    from mobilellm.checkpoint import save_model
    from mobilellm.export.huggingface import import_huggingface

    model = import_huggingface(arguments.folder)
    tokenizer = Path(arguments.folder) / "tokenizer.model"
    save_model(model, out, tokenizer if tokenizer.is_file() else None)
    stored = sum(parameter.numel() for parameter in model.parameters())
    print(f"{out}: {stored:,} parameters{'' if tokenizer.is_file() else ', no tokenizer.model'}")


if __name__ == "__main__":
    run_command(main)
