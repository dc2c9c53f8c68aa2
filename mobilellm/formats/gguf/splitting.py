"""How byte-level tokenizers of GGUF files split text into words."""

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


def splitter(file: GgufFile) -> tuple[Any, bool]:
    """The pre-tokenizer of a byte-level tokenizer, and whether whole words need no merges.

    Raises:
        ValueError: `tokenizer.ggml.pre` names a way that is not known.
    """
    from tokenizers import Regex, pre_tokenizers

    name = file.get("tokenizer.ggml.pre", "default")
    if name in _GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False), False
    if name in _DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence(
            [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ), False
    if name not in _EXPRESSIONS:
        known = sorted((*_GPT2, *_DIGITS, *_EXPRESSIONS))
        raise ValueError(
            f"{file.path}: tokenizer.ggml.pre={name} is not known, so that text cannot be split as "
            f"the model was trained; known are {', '.join(known)}: import the model's Hugging Face "
            "folder instead"
        )
    split = pre_tokenizers.Split(Regex(_EXPRESSIONS[name]), "isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, bytes_only]), name.startswith("llama")
