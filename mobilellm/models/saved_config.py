"""Reading of config.json in a model folder, without importing torch or loading weights."""

import json
from pathlib import Path
from typing import Any

from mobilellm.command_names import command_for
from mobilellm.models.config import ModelConfig

CONFIG_FILE = "config.json"
FORMAT = "mobilellm/1"


def read_config(folder: str | Path) -> ModelConfig:
    """Read the configuration of a model that was saved by `save_model`.

    Raises:
        FileNotFoundError: the folder or its config.json does not exist.
        ValueError: the file has another format, an unknown field or an invalid value.
    """
    path = Path(folder) / CONFIG_FILE
    values = read_json(path)
    if values.pop("format", None) != FORMAT:
        raise ValueError(
            f"{path} does not have format={FORMAT!r}; "
            f"convert a Hugging Face folder with {command_for('import')}"
        )
    try:
        return ModelConfig.from_dict(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that contains a JSON object.

    Raises:
        FileNotFoundError: the folder or the file is missing.
        ValueError: the file does not contain a JSON object.
    """
    check_exists(path)
    try:
        # Some editors write a byte order mark, which JSON does not allow.
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); save the model again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} does not contain a JSON object; save the model again")
    return values


def check_exists(path: Path) -> None:
    """Check that a file exists.

    Raises:
        FileNotFoundError: the folder or the file is missing.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"folder {path.parent} does not exist; give the folder of a saved model"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.name} is missing in {path.parent}; give the folder of a saved model"
        )
