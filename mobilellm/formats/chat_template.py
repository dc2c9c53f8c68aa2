"""Gives a model without a chat template one: its tokenizer, its embedding and its head."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from mobilellm.data.tokenizers import Tokenizer, find_tokenizer_file, load_tokenizer, open_tokenizer
from mobilellm.data.tokenizers.chatml import files_with_chatml
from mobilellm.models import MobileLLM
from mobilellm.models.vocabulary import with_added_tokens


def with_chatml(
    model: MobileLLM, tokenizer_files: Mapping[str, bytes] | None
) -> tuple[MobileLLM, dict[str, bytes]]:
    """A model and a tokenizer that write conversations in ChatML; see `files_with_chatml`.

    Args:
        model: is not changed.
        tokenizer_files: contents of the files of its tokenizer, by name.

    Returns:
        The model with rows for the new tokens, whose end-of-text token is `<|im_end|>`; and the
        files of its tokenizer, which have the template.

    Raises:
        ValueError: there is no tokenizer, or see `files_with_chatml` and `with_added_tokens`.
    """
    if not tokenizer_files:
        raise ValueError("a chat template needs a tokenizer, which the model does not have")
    before = _opened(tokenizer_files, model.config.vocab_size)
    files = files_with_chatml(before)
    after = _opened(files, None)
    if after.eos_id is None:
        raise ValueError("the end of turns cannot be added to the tokenizer of the model")
    larger = with_added_tokens(
        model, used_tokens=before.vocab_size, num_tokens=after.vocab_size,
        eos_token_id=after.eos_id,
    )  # fmt: skip
    return larger, files


def _opened(files: Mapping[str, bytes], vocab_size: int | None) -> Tokenizer:
    """The tokenizer that files describe."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        path = find_tokenizer_file(folder)
        if path is None:
            raise ValueError("a chat template needs a tokenizer, which the model does not have")
        if vocab_size is None:
            return open_tokenizer(path, name="tokenizer ")
        return load_tokenizer(path, vocab_size, name="tokenizer ")
