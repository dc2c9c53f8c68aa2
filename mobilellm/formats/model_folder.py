"""Opens saved models of all supported formats: those of this project, and Hugging Face's."""

from pathlib import Path
from typing import TYPE_CHECKING

from mobilellm.command_names import command_for
from mobilellm.data.tokenizers import find_tokenizer_file, open_tokenizer
from mobilellm.data.tokenizers.stated_begin import files_of_begun
from mobilellm.formats.huggingface.config import read_huggingface_config
from mobilellm.models.config import ModelConfig
from mobilellm.models.saved_config import CONFIG_FILE, read_config, read_json

if TYPE_CHECKING:
    from mobilellm.models import MobileLLM

_OTHER_TOKENIZERS = ("tiktoken.model", "vocab.json")


def open_config(folder: str | Path) -> ModelConfig:
    """Read the architecture of a saved model from its config.json, without loading torch.

    Args:
        folder: see `open_model`.

    Raises:
        FileNotFoundError: the folder or config.json does not exist.
        NotRepresentable: the architecture is not supported.
        ValueError: the file is damaged, or has an invalid value.
    """
    folder = folder_with_config(folder)
    if _is_own_format(folder):
        return read_config(folder)
    return read_huggingface_config(folder)


def open_model(folder: str | Path, *, as_stored: bool = False) -> "tuple[MobileLLM, Path | None]":
    """Load a model and find its tokenizer.

    Args:
        folder: written by `save_model`, a run's folder (its `model/` is opened), or a Llama-type
            Hugging Face folder.
        as_stored: keep the data types of the stored weights. The default is float32, since 16 bits
            are too few for weight updates and for sums over many tokens.

    Returns:
        The model on the CPU; the path of its tokenizer, or None.

    Raises:
        FileNotFoundError: the folder or a file of the model does not exist.
        ValueError: the architecture is not supported, or files are damaged or inconsistent.
    """
    # `open_config` must not load torch.
    from mobilellm.checkpoint import load_model
    from mobilellm.formats.huggingface import import_huggingface

    folder = folder_with_config(folder)
    if not _is_own_format(folder):
        model = import_huggingface(folder, **({"dtype": None} if as_stored else {}))
    else:
        model = load_model(folder) if as_stored else load_model(folder).float()
    return model, find_tokenizer(folder)


def describe_missing_tokenizer(folder: str | Path) -> str:
    """Return the error message for a folder in which `open_model` finds no tokenizer."""
    folder = folder_with_config(folder)
    other = next((n for n in _OTHER_TOKENIZERS if (folder / n).is_file()), None)
    kind = f" contains {other}, which is not supported, and no" if other else " contains no"
    return f"{folder}{kind} tokenizer.model or tokenizer.json"


def find_tokenizer(folder: str | Path) -> Path | None:
    """Return the path of the tokenizer of a model or run; None if there is none."""
    return find_tokenizer_file(folder_with_config(folder))


def tokenizer_files(folder: str | Path) -> dict[str, bytes] | None:
    """The files of the tokenizer of a model or run, for the folder of a model made from it.

    If the model reads a begin-of-text token before texts and its tokenizer has no settings that say
    so, such settings are added: the new folder does not say which program made the model.

    Returns:
        Contents by name; None if there is no tokenizer.

    Raises:
        ValueError: the tokenizer cannot be read.
    """
    path = find_tokenizer(folder)
    if path is None:
        return None
    tokenizer = open_tokenizer(path, name="tokenizer ")
    if tokenizer.adds_bos is None and reads_bos_by_default(folder, tokenizer.bos_id):
        return files_of_begun(tokenizer, adds_eos=False)
    return tokenizer.files()


def folder_with_config(folder: str | Path) -> Path:
    """The folder of a model itself, or `model/` in a run's folder."""
    folder = Path(folder)
    if folder.is_file():
        remedy = "give the folder of a model"
        if folder.suffix == ".gguf":
            remedy = f"convert it with {command_for('import')} {folder} --out MODEL_DIR"
        raise ValueError(f"{folder} is a file; {remedy}")
    in_run = folder / "model"
    own = (folder / CONFIG_FILE).is_file() or not (in_run / CONFIG_FILE).is_file()
    return folder if own else in_run


def reads_bos_by_default(folder: str | Path, bos_id: int | None) -> bool:
    """Whether a model reads a begin-of-text token before texts, if its tokenizer does not say so.

    `transformers` adds the begin-of-text token of a SentencePiece model without settings, unless
    the model has the same token for the end of texts. Models of this project were trained on
    documents that are separated by the end-of-text token only, unless their tokenizer says so.

    Args:
        folder: see `open_model`.
        bos_id: begin-of-text token of its tokenizer; None if there is none.
    """
    folder = folder_with_config(folder)
    values = read_json(folder / CONFIG_FILE)
    begin, end = (values.get(name) for name in ("bos_token_id", "eos_token_id"))
    return not _is_own_format(folder) and bos_id is not None and begin == bos_id != end


def is_huggingface(folder: str | Path) -> bool:
    """Whether the folder of a model, or of a run, holds one in the form of Hugging Face."""
    return not _is_own_format(folder_with_config(folder))


def _is_own_format(folder: Path) -> bool:
    return "format" in read_json(folder / CONFIG_FILE)
