r"""Convert a model of another project into a model folder of this project.

The model is a Hugging Face folder (config.json, weights as safetensors or pytorch_model.bin in one
file or several, tokenizer.model or tokenizer.json) or a GGUF file of the Llama architecture. Of
Hugging Face's architectures, Llama, Mistral, Qwen3, Arcee, SmolLM3 and Llama 4 are read where all
their layers can be represented, and Meta's MobileLLM; what cannot is named.

--chat-template chatml prepares a model without a chat template for fine-tuning on conversations: it
gets the template of ChatML, two tokens, and rows for them in its embedding and head. The model may
then also be a run or a model folder of this project.

An adapter folder of PEFT or of a run is added into the weights of the model that it was trained on.

  mobilellm import SmolLM2-135M-Instruct --out smollm2
  mobilellm import SmolLM2-135M-Instruct.Q4_1.gguf --out smollm2
  mobilellm import outputs/default/<run> --out for_chat --chat-template chatml
  mobilellm import ADAPTER_DIR --base smollm2 --out merged
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

ADAPTER_CONFIG = "adapter_config.json"
# Number types that --dtype accepts; None keeps those of the stored weights.
DTYPES = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float16", "stored": None}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; `arguments` default to the command line."""
    run_command(functools.partial(run, arguments))


def run(arguments: Sequence[str] | None) -> None:
    """Read the arguments, convert the model and print a summary."""
    parser = command_parser("import", __doc__)
    parser.add_argument(
        "source", type=user_path, metavar="FOLDER_OR_GGUF",
        help="Hugging Face folder, GGUF file, or adapter folder of PEFT",
    )  # fmt: skip
    parser.add_argument(
        "--base", type=user_path, metavar="MODEL_DIR",
        help="model of an adapter (default: the local folder that its adapter_config.json names)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=user_path, metavar="MODEL_DIR", required=True, help="new or empty folder"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32",
        help="number type of the weights; stored: that of the model, not for GGUF files "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--chat-template", choices=("chatml",),
        help="template for a model that has none, with the tokens that it needs",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    out = options.out
    check_unused("--out", out)
    source, base = options.source, options.base
    is_adapter = (source / ADAPTER_CONFIG).is_file() and not (source / "config.json").is_file()
    if base is not None and not is_adapter:
        raise ValueError(
            f"--base={base} is the model of an adapter, but {source} has no {ADAPTER_CONFIG}; "
            "leave --base out, or give the folder of an adapter"
        )
    read = _from_gguf if source.is_file() else _from_folder
    if is_adapter:
        read = functools.partial(_from_adapter, base=base)
    elif options.chat_template is not None and source.is_dir():
        read = _from_any_folder
    model, tokenizer = read(source, options.dtype)

    from mobilellm.checkpoint import save_model

    if options.chat_template is not None:
        from mobilellm.formats.chat_template import with_chatml

        model, tokenizer = with_chatml(model, tokenizer)
    save_model(model, out, tokenizer)
    stored = sum(parameter.numel() for parameter in model.parameters())
    print(f"{out}: {stored:,} parameters{'' if tokenizer else ', no tokenizer'}")


def _from_any_folder(folder: Path, dtype: str) -> "tuple[MobileLLM, Mapping[str, bytes] | None]":
    """The model in a folder of this project or of Hugging Face, and the files of its tokenizer."""
    import torch

    from mobilellm.formats.model_folder import is_huggingface, open_model, tokenizer_files

    if is_huggingface(folder):
        return _from_folder(folder, dtype)
    model, _ = open_model(folder, as_stored=True)
    name = DTYPES[dtype]
    return model if name is None else model.to(getattr(torch, name)), tokenizer_files(folder)


def _from_folder(folder: Path, dtype: str) -> "tuple[MobileLLM, Mapping[str, bytes] | None]":
    """The model in a Hugging Face folder, and the files of its tokenizer.

    Raises:
        ValueError: the model is one of this project, or see `import_huggingface`.
    """
    import torch

    from mobilellm.data.tokenizers import find_tokenizer_file, load_tokenizer
    from mobilellm.formats.huggingface import import_huggingface
    from mobilellm.formats.model_folder import is_huggingface, tokenizer_files
    from mobilellm.formats.special_tokens import with_tokenizer_ids

    if not is_huggingface(folder):
        raise ValueError(
            f"{folder} is a model of this project already, which every command takes; give it a "
            "template for conversations with --chat-template chatml, or give a Hugging Face folder"
        )
    name = DTYPES[dtype]
    model = import_huggingface(folder, dtype=None if name is None else getattr(torch, name))
    tokenizer = find_tokenizer_file(folder)
    if tokenizer is not None:
        opened = load_tokenizer(tokenizer, model.config.vocab_size, name="tokenizer ")
        model.config = with_tokenizer_ids(model.config, opened)
    return model, tokenizer_files(folder)


def _from_adapter(
    folder: Path, dtype: str, *, base: Path | None
) -> "tuple[MobileLLM, Mapping[str, bytes] | None]":
    """The model with an adapter, and the files of its tokenizer.

    Raises:
        ValueError: the model of the adapter is not known, or see `import_adapter`.
    """
    import torch

    from mobilellm.adapters import import_adapter
    from mobilellm.formats.model_folder import open_model, tokenizer_files
    from mobilellm.models.saved_config import read_json

    if base is None:
        named = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
        if not isinstance(named, str) or not user_path(named).is_dir():
            raise ValueError(
                f"{folder / ADAPTER_CONFIG} names {named!r} as the model of the adapter, which is "
                "no folder here; give it with --base MODEL_DIR"
            )
        base = user_path(named)
    name = DTYPES[dtype]
    whole, _ = open_model(base, as_stored=True)
    # The update is added in float32; 16 bits would round it away from small weights.
    wanted = whole.norm.weight.dtype if name is None else getattr(torch, name)
    return import_adapter(folder, whole.float()).to(wanted), tokenizer_files(base)


def _from_gguf(path: Path, dtype: str) -> "tuple[MobileLLM, Mapping[str, bytes] | None]":
    """The model in a GGUF file, and the files of its tokenizer.

    Raises:
        ValueError: the number type of the file is asked for, or see `import_gguf`.
    """
    import torch

    from mobilellm.formats.gguf import import_gguf

    name = DTYPES[dtype]
    if name is None:
        # Its matrices may have several types, most of which are not those of a tensor.
        raise ValueError(
            f"--dtype stored cannot be used for {path}: the matrices of a GGUF file are "
            "dequantized; use --dtype float32, bfloat16 or float16"
        )
    model, files = import_gguf(path)
    return model.to(getattr(torch, name)), files or None
