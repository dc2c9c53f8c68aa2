"""Files of a tokenizer whose settings say how the documents of a model's training began.

Every program then begins a text in the same way, whatever the settings said in the model that the
tokenizer comes from.
"""

import json

from mobilellm.data.tokenizers.settings import SETTINGS_FILE
from mobilellm.data.tokenizers.tokenizer import Tokenizer
from mobilellm.files import TOKENIZER_FILE, TOKENIZER_JSON


def files_of_separated(tokenizer: Tokenizer) -> dict[str, bytes]:
    """The files for a model that was trained on documents with only end-of-text tokens between.

    To such a model, a text begins after the end of another one: its begin-of-text token is the
    end-of-text token. A SentencePiece model without settings is returned unchanged: what text
    begins with is then up to the configuration of the model.
    """
    files, end = tokenizer.files(), tokenizer.eos_id
    if end is None or (TOKENIZER_FILE in files and SETTINGS_FILE not in files):
        return files
    if tokenizer.bos_id == end and tokenizer.adds_bos:
        return files
    name = tokenizer.piece(end)
    settings = {**tokenizer.settings.values, "bos_token": name, "eos_token": name}
    settings |= {"add_bos_token": True, "add_eos_token": False}
    files[SETTINGS_FILE] = (json.dumps(settings, indent=2, allow_nan=False) + "\n").encode()
    if TOKENIZER_JSON in files:
        values = json.loads(files[TOKENIZER_JSON])
        values["post_processor"] = _begin_with(name, end)
        files[TOKENIZER_JSON] = json.dumps(
            values, ensure_ascii=False, indent=2, allow_nan=False
        ).encode()
    return files


def files_of_begun(tokenizer: Tokenizer, *, adds_eos: bool) -> dict[str, bytes]:
    """The files for a model that was trained on documents with a begin-of-text token before each.

    Args:
        tokenizer: with a begin-of-text token.
        adds_eos: whether an end-of-text token was put after each document too.
    """
    files = tokenizer.files()
    if tokenizer.bos_id is None or (tokenizer.adds_bos and bool(tokenizer.adds_eos) == adds_eos):
        return files
    settings = {**tokenizer.settings.values, "bos_token": tokenizer.piece(tokenizer.bos_id)}
    if tokenizer.eos_id is not None:
        settings["eos_token"] = tokenizer.piece(tokenizer.eos_id)
    settings |= {"add_bos_token": True, "add_eos_token": adds_eos}
    files[SETTINGS_FILE] = (json.dumps(settings, indent=2, allow_nan=False) + "\n").encode()
    return files


def _begin_with(name: str, token: int) -> dict[str, object]:
    """A post-processor that puts one token before each text."""
    special = {"SpecialToken": {"id": name, "type_id": 0}}
    first, second = ({"Sequence": {"id": part, "type_id": 0}} for part in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [special, first],
        "pair": [special, first, special, second],
        "special_tokens": {name: {"id": name, "ids": [token], "tokens": [name]}},
    }
