r"""Convert a model of another project into a model folder of this project.

The model is a Hugging Face folder (config.json, weights as safetensors or pytorch_model.bin in one
file or several, tokenizer.model or tokenizer.json) or a GGUF file of the Llama architecture. Of
Hugging Face's architectures, Llama, Mistral, Qwen3, Arcee, SmolLM3 and Llama 4 are read where all
their layers can be represented, and Meta's MobileLLM; what cannot is named.

  mobilellm import SmolLM2-135M-Instruct --out smollm2
  mobilellm import SmolLM2-135M-Instruct.Q4_1.gguf --out smollm2
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mobilellm.cli.command import run_command
from mobilellm.commands import command_parser
from mobilellm.paths import check_unused, user_path

if TYPE_CHECKING:
    from mobilellm.models import MobileLLM

# Number types that --dtype accepts; None keeps those of the stored weights.
DTYPES = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float16", "stored": None}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; `arguments` default to the command line."""
    run_command(functools.partial(run, arguments))


def run(arguments: Sequence[str] | None) -> None:
    """Read the arguments, convert the model and print a summary."""
    parser = command_parser("import", __doc__)
    parser.add_argument(
        "source", type=user_path, metavar="FOLDER_OR_GGUF", help="Hugging Face folder or GGUF file"
    )
    parser.add_argument(
        "--out", type=user_path, metavar="MODEL_DIR", required=True, help="new or empty folder"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32",
        help="number type of the weights; stored: that of the model (default: %(default)s)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    out = options.out
    check_unused("--out", out)
    is_file = options.source.is_file()
    model, tokenizer = (_from_gguf if is_file else _from_folder)(options.source, options.dtype)

    from mobilellm.checkpoint import save_model

    save_model(model, out, tokenizer)
    stored = sum(parameter.numel() for parameter in model.parameters())
    print(f"{out}: {stored:,} parameters{'' if tokenizer else ', no tokenizer'}")


def _from_folder(folder: Path, dtype: str) -> "tuple[MobileLLM, Mapping[str, bytes] | None]":
    """The model in a Hugging Face folder, and the files of its tokenizer."""
    import torch

    from mobilellm.data.tokenizers import find_tokenizer_file, load_tokenizer
    from mobilellm.formats.huggingface import import_huggingface
    from mobilellm.formats.model_folder import tokenizer_files
    from mobilellm.formats.special_tokens import with_tokenizer_ids

    name = DTYPES[dtype]
    model = import_huggingface(folder, dtype=None if name is None else getattr(torch, name))
    tokenizer = find_tokenizer_file(folder)
    if tokenizer is not None:
        opened = load_tokenizer(tokenizer, model.config.vocab_size, name="tokenizer ")
        model.config = with_tokenizer_ids(model.config, opened)
    return model, tokenizer_files(folder)


def _from_gguf(path: Path, dtype: str) -> "tuple[MobileLLM, Mapping[str, bytes] | None]":
    """The model in a GGUF file, and the files of its tokenizer."""
    import torch

    from mobilellm.formats.gguf import import_gguf

    model, files = import_gguf(path)
    # GGUF files are dequantized to float32; their own types are not those of a tensor.
    return model.to(getattr(torch, DTYPES[dtype] or "float32")), files or None
