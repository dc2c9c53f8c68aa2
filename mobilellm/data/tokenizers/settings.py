"""The settings of a tokenizer: names of special tokens, begin-of-text rule and chat template."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mobilellm.command_names import command_for
from mobilellm.files import describe_invalid_file

SETTINGS_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
TEMPLATE_FILE = "chat_template.jinja"
_OLD_TEMPLATE_FILE = "chat_template.json"
_MODEL_FILES = ("generation_config.json", "config.json")
SETTINGS_FILES = (SETTINGS_FILE, SPECIAL_TOKENS_FILE, TEMPLATE_FILE, _OLD_TEMPLATE_FILE)
"""Names of the files with the settings of a tokenizer."""
READ_FILES = (*SETTINGS_FILES, *_MODEL_FILES)
"""Names of all files beside a tokenizer that say something about it."""
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True)
class TokenizerSettings:
    """What the files beside a tokenizer say about it; empty if there are no files."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """The contents of tokenizer_config.json."""
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """Names of special tokens by their use, such as `eos_token`."""
    template: str | None = None
    """The chat template, in the language of Jinja."""
    model_ids: Mapping[str, int] = field(default_factory=dict)
    """`bos_token_id` and `eos_token_id` of the model in the same folder, if there is one."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """The files that were read, without those of the model, by name."""

    def flag(self, name: str) -> bool | None:
        """A setting that is true or false; None if it is not given."""
        value = self.values.get(name)
        return value if isinstance(value, bool) else None

    def required_template(self, path: Path) -> str:
        """The chat template.

        Raises:
            ValueError: there is none.
        """
        if self.template is None:
            raise ValueError(
                f"{path.parent} has no chat template ({TEMPLATE_FILE}, or chat_template in "
                f"{SETTINGS_FILE}): the model was not made for conversations; give the prompt as "
                "plain text, add the template that it was trained with, or fine-tune it after "
                f"`{command_for('import')} MODEL_DIR --out NEW_DIR --chat-template chatml`"
            )
        return self.template


def read_settings(folder: Path) -> TokenizerSettings:
    """Read the settings of the tokenizer in a folder.

    Raises:
        ValueError: a file is damaged, or a chat template is not text.
    """
    files = {
        name: (folder / name).read_bytes() for name in SETTINGS_FILES if (folder / name).is_file()
    }
    values = _object(folder / SETTINGS_FILE, files)
    older = _object(folder / SPECIAL_TOKENS_FILE, files)
    names = {
        name: text
        for name in _SPECIAL_TOKENS
        if (text := _token_name(values.get(name)) or _token_name(older.get(name))) is not None
    }
    if TEMPLATE_FILE in files:
        template: str | None = files[TEMPLATE_FILE].decode(errors="replace")
    else:
        given = values.get("chat_template")
        if given is None:
            given = _object(folder / _OLD_TEMPLATE_FILE, files).get("chat_template")
        template = _template(given, folder)
    return TokenizerSettings(values, names, template, _model_ids(folder), files)


def _object(path: Path, files: Mapping[str, bytes]) -> dict[str, Any]:
    """A file with a JSON object; empty if the file does not exist."""
    if path.name not in files:
        return {}
    try:
        values = json.loads(files[path.name].decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = describe_invalid_file(path) or f"is not valid JSON ({error}); fetch it again"
        raise ValueError(f"{path} {reason}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} does not contain a JSON object; fetch it again")
    return values


def _token_name(value: Any) -> str | None:
    """The name of a token, which is given as text or as an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _template(given: Any, folder: Path) -> str | None:
    """The chat template of tokenizer_config.json, of several the one named `default`."""
    if isinstance(given, list):
        named = {one.get("name"): one.get("template") for one in given if isinstance(one, dict)}
        given = named.get("default")
    if given is not None and not isinstance(given, str):
        raise ValueError(
            f"chat_template in {folder / SETTINGS_FILE} must be text, or a list with a template "
            "named 'default'; correct it, or write the template to chat_template.jinja"
        )
    return given


def _model_ids(folder: Path) -> dict[str, int]:
    """The first begin- and end-of-text token in the configuration of the model, if it is valid."""
    ids: dict[str, int] = {}
    for name in _MODEL_FILES:
        try:
            values = json.loads((folder / name).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError):
            continue  # the files of the model are checked where the model is read
        for key in ("bos_token_id", "eos_token_id"):
            value = values.get(key) if isinstance(values, dict) else None
            if isinstance(value, list) and value:
                value = value[0]
            if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
                ids.setdefault(key, value)
    return ids
