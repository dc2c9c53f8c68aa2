"""A model folder's config.json, read without torch and without the weights."""

import json
from pathlib import Path
from typing import Any

from mobilellm.models.config import ModelConfig

CONFIG_FILE = "config.json"
FORMAT = "mobilellm/1"


def read_config(folder: str | Path) -> ModelConfig:
    """The configuration in a folder that `save_model` wrote.

    Raises:
        FileNotFoundError: no such folder, or no config.json in it.
        ValueError: it is not ours, has a field that does not exist, or describes no model.
    """
    path = Path(folder) / CONFIG_FILE
    values = read_json(path)
    if values.pop("format", None) != FORMAT:
        raise ValueError(
            f"{path} does not say format={FORMAT!r}; "
            "bring a Hugging Face folder in with scripts/import.py"
        )
    try:
        return ModelConfig.from_dict(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        FileNotFoundError: the folder or the file is missing.
        ValueError: it does not hold a JSON object.
    """
    check_exists(path)
    try:
        # A byte order mark, as some editors write, is no part of the text.
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); save the model again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object; save the model again")
    return values


def check_exists(path: Path) -> None:
    """Refuse a file that is not there.

    Raises:
        FileNotFoundError: the folder or the file is missing.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"folder {path.parent} does not exist; give a saved model's folder")
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} is missing in {path.parent}; give a whole folder")
