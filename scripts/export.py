"""Write a model folder of this project in another project's format."""

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
        "folder", type=user_path, metavar="MODEL_DIR", help="model folder or run folder"
    )
    parser.add_argument("--format", choices=["huggingface"], required=True, help="what to write")
    parser.add_argument(
        "--out", type=user_path, metavar="DIR", required=True, help="new or empty folder"
    )
    arguments = parser.parse_args()

    from mobilellm.formats.export_summary import export_summary
    from mobilellm.formats.huggingface import export_huggingface
    from mobilellm.formats.model_folder import open_model

    model, tokenizer = open_model(arguments.folder, as_stored=True)
    export_huggingface(model, arguments.out, tokenizer)
    print(f"{arguments.out}: {export_summary(model, arguments.out)}")


if __name__ == "__main__":
    run_command(main)
