"""How byte-level tokenizers split text into words, and what llama.cpp calls each way."""

import json
from collections.abc import Mapping
from typing import Any

from mobilellm.formats.gguf.file import GgufFile

# Regular expressions that the published tokenizer.json of these models have.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_EXPRESSIONS = {
    "llama-bpe": _LLAMA3, "llama3": _LLAMA3, "llama-v3": _LLAMA3, "dbrx": _LLAMA3,
    "smaug-bpe": _LLAMA3, "qwen2": _QWEN2, "stablelm2": _QWEN2,
}  # fmt: skip
_GPT2 = ("default", "gpt-2", "gpt2", "olmo", "jina-es", "jina-de")
# As GPT-2, with a token for each digit.
_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone")
# One name for each way that differs from the others.
_WRITTEN = ("gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2")


def splitter(file: GgufFile) -> tuple[Any, bool]:
    """The pre-tokenizer of a byte-level tokenizer, and whether whole words need no merges.

    Raises:
        ValueError: `tokenizer.ggml.pre` names a way that is not known.
    """
    name = file.get("tokenizer.ggml.pre", "default")
    known = known_names()
    if name not in known:
        raise ValueError(
            f"{file.path}: tokenizer.ggml.pre={name} is not known, so that text cannot be split as "
            f"the model was trained; known are {', '.join(known)}: import the model's Hugging Face "
            "folder instead"
        )
    return _splitter_named(name)


def name_of_splitting(values: Mapping[str, Any]) -> str | None:
    """The name that llama.cpp has for the way in which a tokenizer.json splits text into words.

    Args:
        values: the contents of a tokenizer.json with a byte-level tokenizer.

    Returns:
        A value of `tokenizer.ggml.pre`; None if the way is not one of those that are known.
    """
    given = _steps(values.get("pre_tokenizer"))
    needs_no_merges = bool(values["model"].get("ignore_merges"))
    for name in _WRITTEN:
        known, ignores = _splitter_named(name)
        if (_steps(json.loads(known.__getstate__())), ignores) == (given, needs_no_merges):
            return name
    return None


def known_names() -> list[str]:
    """The values of `tokenizer.ggml.pre` that can be read."""
    return sorted((*_GPT2, *_DIGITS, *_EXPRESSIONS))


def _splitter_named(name: str) -> tuple[Any, bool]:
    from tokenizers import Regex, pre_tokenizers

    if name in _GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False), False
    if name in _DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence(
            [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ), False
    split = pre_tokenizers.Split(Regex(_EXPRESSIONS[name]), "isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, bytes_only]), name.startswith("llama")


def _steps(part: Any) -> list[dict[str, Any]]:
    """The steps of a pre-tokenizer one after the other, with only what decides how they split."""
    if not isinstance(part, Mapping):
        return []
    if part.get("type") == "Sequence":
        return [step for one in part.get("pretokenizers", []) for step in _steps(one)]
    step = {key: value for key, value in part.items() if key != "trim_offsets"}
    if step.get("type") == "ByteLevel":
        step.setdefault("use_regex", True)  # older files do not have it
    return [step]
