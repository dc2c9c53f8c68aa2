r"""Write a model folder of this project in the format of another program.

huggingface: a folder that `transformers` loads, as one of its own architectures, with dense
matrices and one layer per application; with --custom-code the model goes out as it is stored, with
a modelling file of its own. gguf: a file for llama.cpp, by the package gguf (pip install
'mobilellm[gguf]'). executorch: a program for phones, by the package executorch (pip install
'mobilellm[executorch]'); compiling it takes minutes. A folder also gets a README.md that says what
the model is and what was measured about it.

  mobilellm export MODEL_DIR --format huggingface --out again
  mobilellm export MODEL_DIR --format huggingface --custom-code --out as-stored
  mobilellm export MODEL_DIR --format gguf --type q8_0 --out model.gguf
  mobilellm export MODEL_DIR --format executorch --type 8da4w --out model.pte
"""

import functools
from collections.abc import Sequence
from typing import NoReturn

from mobilellm.cli.command import run_command
from mobilellm.commands import command_parser
from mobilellm.paths import user_path
from mobilellm.pipeline.export_settings import FORMATS, ExportSettings


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; `arguments` default to the command line."""
    run_command(functools.partial(run, arguments))


def run(arguments: Sequence[str] | None) -> None:
    """Read the arguments, convert the model and print a summary."""
    parser = command_parser("export", __doc__)
    parser.add_argument(
        "folder", type=user_path, metavar="MODEL_DIR", help="model folder or run folder"
    )
    parser.add_argument("--format", choices=FORMATS, required=True, help="format to write")
    parser.add_argument(
        "--out", type=user_path, metavar="DIR_OR_FILE", required=True,
        help="new or empty folder; also a new file that ends in .gguf (gguf) or .pte (executorch)",
    )  # fmt: skip
    parser.add_argument(
        "--type", dest="kind",
        help="gguf: type of the matrices, f32, f16, q8_0, q4_0 or q4_1 (default: f16); executorch: "
        "fp32, 8da8w or 8da4w (default: fp32)",
    )  # fmt: skip
    parser.add_argument(
        "--table-type", dest="table_kind", metavar="TYPE",
        help="gguf: type of the token embedding and of a head of its own (default: --type)",
    )  # fmt: skip
    parser.add_argument(
        "--fallback", metavar="TYPE",
        help="gguf: f16 or f32 for matrices whose rows are no multiple of 32 weights, which are "
        "refused otherwise",
    )  # fmt: skip
    parser.add_argument(
        "--pre-tokenizer", metavar="NAME",
        help="gguf: what llama.cpp calls the way in which a tokenizer.json splits text into words, "
        "if it is not recognised",
    )  # fmt: skip
    parser.add_argument(
        "--context", type=int, metavar="TOKENS",
        help="executorch: tokens that the cache has room for, all of which every step reads "
        "(default: those of the model, at most 512)",
    )  # fmt: skip
    parser.add_argument(
        "--custom-code", action="store_true",
        help="huggingface: with a modelling file of its own, which stores shared blocks and "
        "factorised matrices once; it loads with trust_remote_code=True",
    )  # fmt: skip
    options = vars(parser.parse_args(arguments))
    folder, out = options.pop("folder"), options.pop("out")
    settings = ExportSettings(**options)

    from mobilellm.pipeline.export import export_folder

    print(export_folder(folder, out, settings))
