"""Converts the tokenizer of a GGUF file to the files of a model folder."""

import json
from collections.abc import Mapping
from typing import Any

from mobilellm.data.tokenizers.settings import SETTINGS_FILE, TEMPLATE_FILE
from mobilellm.files import TOKENIZER_FILE, TOKENIZER_JSON
from mobilellm.formats.gguf.file import GgufFile
from mobilellm.formats.gguf.splitting import splitter
from mobilellm.formats.gguf.token_types import (
    BYTE,
    CONTROL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    padding_piece,
)

_SPECIAL = {
    "bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}  # fmt: skip


def read_gguf_tokenizer(file: GgufFile) -> Mapping[str, bytes]:
    """The files of the tokenizer by name, the tokenizer itself first; empty if there is none.

    Raises:
        ValueError: the kind of tokenizer is not supported, or a field is damaged or missing.
    """
    kind = file.get("tokenizer.ggml.model")
    if kind in (None, "none", "no_vocab"):
        return {}
    if kind in ("gpt2", "llama") and not _pieces(file):
        return {}  # it has as many tokens as the embedding has rows, but all of them are padding
    if kind == "gpt2":
        files = {TOKENIZER_JSON: _byte_level(file)}
        settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    elif kind == "llama":
        files = {TOKENIZER_FILE: _sentencepiece(file)}
        settings = {"tokenizer_class": "LlamaTokenizer"}
    else:
        raise ValueError(
            f"{file.path}: tokenizer.ggml.model={kind} is not supported; only gpt2 (byte-level) "
            "and llama (SentencePiece) are: import the model's Hugging Face folder instead"
        )
    files[SETTINGS_FILE] = (
        json.dumps(_settings(file, settings), indent=2, allow_nan=False) + "\n"
    ).encode()
    template = file.get("tokenizer.chat_template")
    if template is not None:
        files[TEMPLATE_FILE] = template.encode()
    return files


def _pieces(file: GgufFile) -> list[str]:
    """The tokens, without those at the end that only fill the rows of the embedding."""
    tokens = file.require("tokenizer.ggml.tokens")
    types = file.get("tokenizer.ggml.token_type", [])
    size = len(tokens)
    while 0 < size <= len(types) and types[size - 1] == UNUSED:
        if tokens[size - 1] != padding_piece(size - 1):
            break
        size -= 1
    return tokens[:size]


def _settings(file: GgufFile, settings: dict[str, Any]) -> dict[str, Any]:
    """The contents of tokenizer_config.json."""
    tokens = _pieces(file)
    for name, field in _SPECIAL.items():
        token = file.get(f"tokenizer.ggml.{field}")
        if token is not None and token < len(tokens):
            settings[name] = tokens[token]
    # Programs that run GGUF files add the begin of text of a SentencePiece model by default.
    is_sentencepiece = file.get("tokenizer.ggml.model") == "llama"
    settings["add_bos_token"] = bool(file.get("tokenizer.ggml.add_bos_token", is_sentencepiece))
    settings["add_eos_token"] = bool(file.get("tokenizer.ggml.add_eos_token", False))
    settings["clean_up_tokenization_spaces"] = False
    return settings


def _byte_level(file: GgufFile) -> bytes:
    """A tokenizer.json."""
    from tokenizers import AddedToken, Tokenizer, decoders, models

    tokens = _pieces(file)
    types = file.get("tokenizer.ggml.token_type", [])
    merges = [tuple(merge.split(" ")) for merge in file.require("tokenizer.ggml.merges")]
    pre_tokenizer, ignore_merges = splitter(file)
    vocabulary = {piece: token for token, piece in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens(
        [
            AddedToken(piece, normalized=False, special=True)
            for piece, kind in zip(tokens, types, strict=False)
            if kind == CONTROL
        ]
    )
    tokenizer.add_tokens(
        [
            AddedToken(piece, normalized=False)
            for piece, kind in zip(tokens, types, strict=False)
            if kind == USER_DEFINED
        ]
    )
    return tokenizer.to_str(pretty=True).encode()


def _sentencepiece(file: GgufFile) -> bytes:
    """A SentencePiece model."""
    from sentencepiece import sentencepiece_model_pb2

    format_: Any = sentencepiece_model_pb2  # its classes are made when it is imported

    tokens = _pieces(file)
    scores = file.require("tokenizer.ggml.scores")
    types = file.require("tokenizer.ggml.token_type")
    model = format_.ModelProto()
    for piece, score, kind in zip(tokens, scores, types, strict=False):
        model.pieces.add(piece=piece, score=score, type=kind)
    trained = model.trainer_spec
    trained.model_type = format_.TrainerSpec.BPE
    trained.vocab_size = len(tokens)
    trained.byte_fallback = BYTE in types
    unknown = types.index(UNKNOWN) if UNKNOWN in types else -1
    trained.unk_id = file.get("tokenizer.ggml.unknown_token_id", unknown)
    trained.bos_id = file.get("tokenizer.ggml.bos_token_id", -1)
    trained.eos_id = file.get("tokenizer.ggml.eos_token_id", -1)
    trained.pad_id = file.get("tokenizer.ggml.padding_token_id", -1)
    for name in ("unk", "bos", "eos", "pad"):
        token = getattr(trained, f"{name}_id")
        if token >= 0:
            setattr(trained, f"{name}_piece", tokens[token])
    normalized = model.normalizer_spec
    normalized.name = "identity"
    normalized.add_dummy_prefix = bool(file.get("tokenizer.ggml.add_space_prefix", True))
    normalized.remove_extra_whitespaces = bool(
        file.get("tokenizer.ggml.remove_extra_whitespaces", False)
    )
    normalized.escape_whitespaces = True
    return model.SerializeToString()
