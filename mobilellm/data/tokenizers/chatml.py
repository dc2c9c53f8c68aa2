"""Gives a tokenizer without a chat template the format ChatML, and the two tokens that it needs.

Source: OpenAI 2023, "Chat Markup Language"; the templates of many models have this form.
"""

import json
import struct

from mobilellm.data.tokenizers.settings import (
    SETTINGS_FILE,
    SPECIAL_TOKENS_FILE,
    TEMPLATE_FILE,
)
from mobilellm.data.tokenizers.tokenizer import Tokenizer
from mobilellm.files import TOKENIZER_FILE, TOKENIZER_JSON

BEGIN_OF_TURN = "<|im_start|>"
END_OF_TURN = "<|im_end|>"
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Each message between the two tokens, with its role in the first line."""

# The type of control tokens in a SentencePiece model, and the tags of the fields of a piece.
_CONTROL = 3
_PIECES, _PIECE, _SCORE, _TYPE = b"\x0a", b"\x0a", b"\x15", b"\x18"


def files_with_chatml(tokenizer: Tokenizer) -> dict[str, bytes]:
    """The files of a tokenizer with the template of ChatML, and with `<|im_end|>` as end of text.

    Tokens that the tokenizer has already keep their ids; others follow the last one. If the model
    reads a begin-of-text token before texts, the template begins with it.

    Args:
        tokenizer: without a chat template.

    Returns:
        Contents by name, as `Tokenizer.files` gives them.

    Raises:
        ValueError: the tokenizer has a chat template; or one of the tokens is ordinary text in its
            SentencePiece model.
    """
    if tokenizer.settings.template is not None:
        raise ValueError(
            "the model has a chat template already, which is used; leave out --chat-template"
        )
    files = tokenizer.files()
    files.pop(SPECIAL_TOKENS_FILE, None)  # its names are now in the other file
    if TOKENIZER_JSON in files:
        files[TOKENIZER_JSON] = _with_added_tokens(files[TOKENIZER_JSON])
    else:
        files[TOKENIZER_FILE] += b"".join(map(_control_piece, _missing(tokenizer)))
    begin = tokenizer.bos_id if tokenizer.adds_bos else None
    values = {**tokenizer.settings.values, **tokenizer.settings.special_tokens}
    values |= {"eos_token": END_OF_TURN, "add_bos_token": begin is not None}
    values |= {"add_eos_token": False}
    if tokenizer.bos_id is not None:
        values["bos_token"] = tokenizer.piece(tokenizer.bos_id)
    kind = "PreTrainedTokenizerFast" if TOKENIZER_JSON in files else "LlamaTokenizer"
    values.setdefault("tokenizer_class", kind)
    files[SETTINGS_FILE] = (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()
    files[TEMPLATE_FILE] = (CHATML if begin is None else "{{ bos_token }}" + CHATML).encode()
    return files


def _with_added_tokens(content: bytes) -> bytes:
    """A tokenizer.json with both tokens as special ones."""
    import tokenizers

    own = tokenizers.Tokenizer.from_str(content.decode())
    names = (BEGIN_OF_TURN, END_OF_TURN)
    own.add_special_tokens([tokenizers.AddedToken(name, special=True) for name in names])
    return own.to_str(pretty=True).encode()


def _missing(tokenizer: Tokenizer) -> list[str]:
    """The tokens that a SentencePiece model lacks.

    Raises:
        ValueError: it has one as ordinary text, which users could write.
    """
    found = {name: tokenizer.find(name) for name in (BEGIN_OF_TURN, END_OF_TURN)}
    for name, token in found.items():
        if token is not None and token not in tokenizer.special_ids:
            raise ValueError(
                f"the SentencePiece model has {name} as ordinary text, but ChatML needs it as a "
                "control token; give a model whose tokenizer is a tokenizer.json, or add a chat "
                f"template of your own ({TEMPLATE_FILE})"
            )
    return [name for name, token in found.items() if token is None]


def _control_piece(name: str) -> bytes:
    """A control token in the encoding of a SentencePiece model, to be appended to its file.

    The file is a protocol buffer whose pieces are a repeated field, so that further ones may stand
    at its end.
    """
    text = name.encode()
    body = _PIECE + bytes([len(text)]) + text
    body += _SCORE + struct.pack("<f", 0.0) + _TYPE + bytes([_CONTROL])
    return _PIECES + bytes([len(body)]) + body
