"""Opens saved models of all supported formats: those of this project, and Hugging Face's."""

from pathlib import Path
from typing import TYPE_CHECKING

from mobilellm.files import TOKENIZER_FILE
from mobilellm.formats.huggingface.config import read_huggingface_config
from mobilellm.models.config import ModelConfig
from mobilellm.models.saved_config import CONFIG_FILE, read_config, read_json

if TYPE_CHECKING:
    from mobilellm.models import MobileLLM

_OTHER_TOKENIZERS = ("tokenizer.json", "tiktoken.model", "vocab.json")


def open_config(folder: str | Path) -> ModelConfig:
    """Read the architecture of a saved model from its config.json, without loading torch.

    Args:
        folder: see `open_model`.

    Raises:
        FileNotFoundError: the folder or config.json does not exist.
        NotRepresentable: the architecture is not supported.
        ValueError: the file is damaged, or has an invalid value.
    """
    folder = _folder_with_config(Path(folder))
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
        The model on the CPU; the path of its tokenizer.model, or None.

    Raises:
        FileNotFoundError: the folder or a file of the model does not exist.
        ValueError: the architecture is not supported, or files are damaged or inconsistent.
    """
    # `open_config` must not load torch.
    from mobilellm.checkpoint import load_model
    from mobilellm.formats.huggingface import import_huggingface

    folder = _folder_with_config(Path(folder))
    if not _is_own_format(folder):
        model = import_huggingface(folder, **({"dtype": None} if as_stored else {}))
    else:
        model = load_model(folder) if as_stored else load_model(folder).float()
    return model, find_tokenizer(folder)


def describe_missing_tokenizer(folder: str | Path) -> str:
    """Return the error message for a folder in which `open_model` finds no tokenizer."""
    folder = _folder_with_config(Path(folder))
    other = next((n for n in _OTHER_TOKENIZERS if (folder / n).is_file()), None)
    kind = f" contains {other}, which is not supported, and no" if other else " contains no"
    return f"{folder}{kind} SentencePiece tokenizer.model"


def find_tokenizer(folder: str | Path) -> Path | None:
    """Return the path of the tokenizer.model of a model or run; None if there is none."""
    path = _folder_with_config(Path(folder)) / TOKENIZER_FILE
    return path if path.is_file() else None


def _folder_with_config(folder: Path) -> Path:
    """The folder itself, or `model/` in a run's folder."""
    in_run = folder / "model"
    own = (folder / CONFIG_FILE).is_file() or not (in_run / CONFIG_FILE).is_file()
    return folder if own else in_run


def _is_own_format(folder: Path) -> bool:
    return "format" in read_json(folder / CONFIG_FILE)
