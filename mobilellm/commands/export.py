"""Write a model folder of this project in the format of another project."""

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
    """Read the arguments, convert the model and print a summary."""
    parser = command_parser("export", __doc__)
    parser.add_argument(
        "folder", type=user_path, metavar="MODEL_DIR", help="model folder or run folder"
    )
    parser.add_argument("--format", choices=["huggingface"], required=True, help="format to write")
    parser.add_argument(
        "--out", type=user_path, metavar="DIR", required=True, help="new or empty folder"
    )
    options = parser.parse_args(arguments)

    from mobilellm.formats.export_summary import export_summary
    from mobilellm.formats.huggingface import export_huggingface
    from mobilellm.formats.model_folder import open_model

    model, tokenizer = open_model(options.folder, as_stored=True)
    export_huggingface(model, options.out, tokenizer)
    print(f"{options.out}: {export_summary(model, options.out)}")
