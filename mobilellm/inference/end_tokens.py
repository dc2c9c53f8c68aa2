"""The tokens that end an answer of a model."""

import re

from mobilellm.data.tokenizers import Tokenizer
from mobilellm.models import ModelConfig
from mobilellm.models.saved_config import read_json

_GENERATION_FILE = "generation_config.json"
_MARKER = "An answer."
_TAG = re.compile(r"<[^<>]+>|\[[^\[\]]+\]")


def end_tokens(config: ModelConfig, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that end an answer, the end-of-text token first.

    These are the end-of-text token, all tokens that `generation_config.json` beside the tokenizer
    calls so, and the special token that the chat template writes after an answer.

    Args:
        config: of the model, with the tokens of its tokenizer.
        tokenizer: of the model.
    """
    found = [config.eos_token_id, *_of_generation_config(tokenizer)]
    turn = _end_of_turn(tokenizer)
    found += [] if turn is None else [turn]
    return tuple(dict.fromkeys(token for token in found if token < config.vocab_size))


def _of_generation_config(tokenizer: Tokenizer) -> list[int]:
    path = tokenizer.path.parent / _GENERATION_FILE
    given = read_json(path).get("eos_token_id") if path.is_file() else None
    values = given if isinstance(given, list) else [given]
    return [token for token in values if type(token) is int and token >= 0]


def _end_of_turn(tokenizer: Tokenizer) -> int | None:
    """The special token that the chat template writes after an answer; None if it writes none."""
    if tokenizer.settings.template is None:
        return None
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARKER}]
    try:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=False)
    except ValueError:  # it refuses such a conversation
        return None
    rest = text.rpartition(_MARKER)[2].lstrip()
    tokens = tokenizer.encode_rendered(rest) if rest else []
    if not tokens:
        return None
    name = tokenizer.piece(tokens[0])
    is_special = tokenizer.decode(tokens[:1]) == "" or _TAG.fullmatch(name)
    return tokens[0] if name and is_special and rest.startswith(name) else None
