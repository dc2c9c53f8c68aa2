"""The files from which `transformers.AutoTokenizer` loads a tokenizer of this project."""

import json
from pathlib import Path

from mobilellm.data.tokenizer import load_tokenizer
from mobilellm.files import TOKENIZER_FILE
from mobilellm.models import ModelConfig


def tokenizer_files(tokenizer: str | Path, config: ModelConfig) -> dict[str, bytes]:
    """Return the contents of the tokenizer's files by name.

    The files are the SentencePiece model and the settings of `LlamaTokenizer`. Without these
    settings, `transformers` would put a space before the text and add no begin-of-text token.

    Args:
        tokenizer: path of a SentencePiece model.
        config: of the exported model, with the ids of its special tokens.

    Raises:
        FileNotFoundError: the tokenizer does not exist.
        ValueError: it is not a SentencePiece model, or has more tokens than the model.
    """
    processor = load_tokenizer(Path(tokenizer), config.vocab_size, name="tokenizer ")
    size = processor.vocab_size()
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": True,
        "add_prefix_space": processor.encode("a", out_type=str)[0].startswith("\u2581"),
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.max_position_embeddings,
        "unk_token": processor.id_to_piece(processor.unk_id()),
    }
    for name, token in (("bos_token", config.bos_token_id), ("eos_token", config.eos_token_id)):
        if token < size:
            settings[name] = processor.id_to_piece(token)
    text = json.dumps(settings, indent=2, allow_nan=False) + "\n"
    return {TOKENIZER_FILE: Path(tokenizer).read_bytes(), "tokenizer_config.json": text.encode()}
