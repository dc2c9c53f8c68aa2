"""Writes a tokenizer as fields of a GGUF file."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mobilellm.data.tokenizers import Tokenizer
from mobilellm.files import TOKENIZER_FILE, TOKENIZER_JSON
from mobilellm.formats.gguf.splitting import name_of_splitting
from mobilellm.formats.gguf.token_types import CONTROL, NORMAL, UNUSED, USER_DEFINED, padding_piece
from mobilellm.models.config import ModelConfig

logger = logging.getLogger(__name__)

_ADVICE = "export to Hugging Face instead, whose folder has the files of the tokenizer unchanged"


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a tokenizer as GGUF files list them."""

    kind: str
    """`llama`: SentencePiece; `gpt2`: byte-level."""
    pieces: Sequence[str]
    types: Sequence[int]
    pre: str
    """What llama.cpp calls the way in which text is split into words."""
    scores: Sequence[float] = ()
    merges: Sequence[str] = ()


def read_vocabulary(tokenizer: Tokenizer, pre: str | None = None) -> Vocabulary:
    """The tokens of a tokenizer, without the rows of the embedding beyond them.

    Args:
        tokenizer: SentencePiece model or tokenizer.json.
        pre: what llama.cpp calls the way in which a tokenizer.json splits text into words; None:
            it is recognised.

    Raises:
        ValueError: llama.cpp would split text into other tokens; the message says why and what to
            do. Or `pre` is given for a SentencePiece model.
    """
    files = tokenizer.files()
    if TOKENIZER_FILE in files:
        if pre is not None:
            raise ValueError(
                f"--pre-tokenizer={pre} has no effect on a SentencePiece tokenizer; leave it out"
            )
        return _sentencepiece(tokenizer, files[TOKENIZER_FILE])
    return _byte_level(tokenizer, json.loads(files[TOKENIZER_JSON]), pre)


def write_tokenizer(
    writer: Any, tokenizer: Tokenizer, vocabulary: Vocabulary, config: ModelConfig
) -> None:
    """Add the fields of a tokenizer.

    Args:
        writer: a `gguf.GGUFWriter`.
        tokenizer: of the model.
        vocabulary: its tokens; rows of the embedding beyond them get the names of unused tokens.
        config: of the model, with the ids of the tokenizer's special tokens.
    """
    padded = range(len(vocabulary.pieces), config.vocab_size)
    writer.add_tokenizer_model(vocabulary.kind)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list([*vocabulary.pieces, *map(padding_piece, padded)])
    writer.add_token_types([*vocabulary.types, *[UNUSED] * len(padded)])
    if vocabulary.kind == "llama":
        writer.add_token_scores([*vocabulary.scores, *[0.0] * len(padded)])
        writer.add_add_space_prefix(tokenizer.adds_space)
    else:
        writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    for add, token in (
        (writer.add_unk_token_id, tokenizer.unk_id), (writer.add_pad_token_id, tokenizer.pad_id)
    ):  # fmt: skip
        if token is not None:
            add(token)
    # As `tokens_of_text`: a tokenizer that does not say otherwise begins texts with this token.
    writer.add_add_bos_token(tokenizer.adds_bos is not False)
    writer.add_add_eos_token(bool(tokenizer.adds_eos))
    if tokenizer.settings.template is not None:
        writer.add_chat_template(tokenizer.settings.template)


def write_placeholder_tokens(writer: Any, config: ModelConfig) -> None:
    """Add a vocabulary without meaning, with which llama.cpp reads and gives token ids only.

    llama.cpp ends the process if a file has none.
    """
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([padding_piece(token) for token in range(config.vocab_size)])
    writer.add_token_types([UNUSED] * config.vocab_size)
    writer.add_token_scores([0.0] * config.vocab_size)
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_add_bos_token(False)


def _sentencepiece(tokenizer: Tokenizer, content: bytes) -> Vocabulary:
    from sentencepiece import sentencepiece_model_pb2

    format_: Any = sentencepiece_model_pb2  # its classes are made when it is imported
    model = format_.ModelProto.FromString(content)
    normalizer = model.normalizer_spec
    reasons = {
        "a unigram model": model.trainer_spec.model_type != format_.TrainerSpec.BPE,
        "no tokens for single bytes (byte_fallback)": not model.trainer_spec.byte_fallback,
        "spaces after words": model.trainer_spec.treat_whitespace_as_suffix,
    }
    found = [reason for reason, is_found in reasons.items() if is_found]
    if found:
        raise ValueError(
            f"{tokenizer.path} has {' and '.join(found)}, with which llama.cpp would split text "
            f"into other tokens; {_ADVICE}"
        )
    changes = {
        f"normalises characters ({normalizer.name})": bool(normalizer.precompiled_charsmap),
        "removes spaces at the ends of a text and beside other spaces":
        normalizer.remove_extra_whitespaces,
    }  # fmt: skip
    for change, is_made in changes.items():
        if is_made:
            logger.warning(
                "%s %s, which llama.cpp does not do: the tokens of such text differ",
                tokenizer.path, change,
            )  # fmt: skip
    return Vocabulary(
        kind="llama",
        pieces=[piece.piece for piece in model.pieces],
        # The numbers of the types are those of SentencePiece.
        types=[piece.type for piece in model.pieces],
        pre="default",
        scores=[piece.score for piece in model.pieces],
    )


def _byte_level(tokenizer: Tokenizer, values: Mapping[str, Any], pre: str | None) -> Vocabulary:
    _check_byte_level(tokenizer, values)
    pre = pre or name_of_splitting(values)
    if pre is None:
        raise ValueError(
            f"{tokenizer.path} splits text into words in a way that has no known name in "
            f"llama.cpp (pre_tokenizer={str(values.get('pre_tokenizer'))[:200]}); give the "
            f"name that llama.cpp has for it with --pre-tokenizer, or {_ADVICE}"
        )
    pieces = [tokenizer.piece(token) for token in range(tokenizer.vocab_size)]
    types = [NORMAL if piece else UNUSED for piece in pieces]
    for token in values.get("added_tokens", []):
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    merges = values["model"]["merges"]
    return Vocabulary(
        kind="gpt2",
        pieces=[piece or padding_piece(token) for token, piece in enumerate(pieces)],
        types=types,
        pre=pre,
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in merges],
    )


def _check_byte_level(tokenizer: Tokenizer, values: Mapping[str, Any]) -> None:
    """Check that a tokenizer.json does what llama.cpp does for byte-level tokens.

    Raises:
        ValueError: it does not.
    """
    model, normalizer = values["model"], values.get("normalizer")
    decoder = (values.get("decoder") or {}).get("type")
    reasons = {
        f"a model of the type {model.get('type')}": model.get("type") != "BPE",
        f"the decoder {decoder}": decoder != "ByteLevel",
        "marks inside or at the end of words": bool(
            model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
        ),
        f"the normalizer {(normalizer or {}).get('type')}": normalizer is not None
        and normalizer.get("type") != "NFC",
    }
    found = [reason for reason, is_found in reasons.items() if is_found]
    if found:
        raise ValueError(
            f"{tokenizer.path} has {' and '.join(found)}, with which llama.cpp would split text "
            f"into other tokens; use the model's tokenizer.model if it has one, or {_ADVICE}"
        )
    if normalizer is not None:
        logger.warning(
            "%s composes characters (NFC) before it splits text, and llama.cpp does not: their "
            "tokens differ for text that is not composed", tokenizer.path,
        )  # fmt: skip
    stripping = [
        token["content"]
        for token in values.get("added_tokens", [])
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word")
    ]
    if stripping:
        logger.warning(
            "%s has special tokens that take the spaces beside them or stand for whole words only "
            "(%s), which llama.cpp does not do: the tokens beside them may differ",
            tokenizer.path, ", ".join(stripping),
        )  # fmt: skip
