"""The files from which `transformers.AutoTokenizer` loads the tokenizer of a model."""

import json
from pathlib import Path

from mobilellm.data.tokenizers import Tokenizer, load_tokenizer
from mobilellm.data.tokenizers.settings import SETTINGS_FILE
from mobilellm.files import TOKENIZER_FILE
from mobilellm.models import ModelConfig


def tokenizer_files(tokenizer: str | Path, config: ModelConfig) -> dict[str, bytes]:
    """Return the contents of the tokenizer's files by name.

    A tokenizer.json is written with its own settings. A SentencePiece model gets the settings of
    `LlamaTokenizer`, except for those that it has; without them, `transformers` would put a space
    before the text and add no begin-of-text token.

    Args:
        tokenizer: path of a tokenizer.
        config: of the exported model, with the ids of its special tokens.

    Raises:
        FileNotFoundError: the tokenizer does not exist.
        ValueError: it cannot be read, or has more tokens than the model.
    """
    opened = load_tokenizer(Path(tokenizer), config.vocab_size, name="tokenizer ")
    files = opened.files()
    if TOKENIZER_FILE in files:
        files[SETTINGS_FILE] = _llama_settings(opened, config)
    return files


def _llama_settings(tokenizer: Tokenizer, config: ModelConfig) -> bytes:
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": True,
        "add_prefix_space": tokenizer.adds_space,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.max_position_embeddings,
    }
    if tokenizer.unk_id is not None:
        settings["unk_token"] = tokenizer.piece(tokenizer.unk_id)
    settings |= tokenizer.settings.values
    for name, token in (("bos_token", config.bos_token_id), ("eos_token", config.eos_token_id)):
        if token < tokenizer.vocab_size:
            settings[name] = tokenizer.piece(token)
    return (json.dumps(settings, indent=2, allow_nan=False) + "\n").encode()
