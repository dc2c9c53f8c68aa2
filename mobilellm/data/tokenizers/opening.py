"""Opens tokenizers of all supported kinds, and finds them in folders."""

from functools import lru_cache
from pathlib import Path

from mobilellm.data.tokenizers.huggingface_tokenizer import open_huggingface
from mobilellm.data.tokenizers.sentencepiece_tokenizer import open_sentencepiece
from mobilellm.data.tokenizers.settings import READ_FILES, SETTINGS_FILES
from mobilellm.data.tokenizers.tokenizer import Tokenizer
from mobilellm.files import TOKENIZER_FILE, TOKENIZER_JSON

TOKENIZER_FILES = (TOKENIZER_FILE, TOKENIZER_JSON)
OWN_FILES = frozenset((*TOKENIZER_FILES, *SETTINGS_FILES))
"""Names of all files that belong to a tokenizer in the folder of a model."""
_NEEDED = f"give a SentencePiece {TOKENIZER_FILE} or a {TOKENIZER_JSON}"


def open_tokenizer(path: Path, *, name: str = "data.tokenizer=") -> Tokenizer:
    """Open a tokenizer of any size; arguments and errors as for `load_tokenizer`."""
    check_tokenizer_file(path, name=name)
    # The settings beside the file count as much as the file itself.
    files = (path, *(path.parent / one for one in READ_FILES))
    state = tuple(
        (one.name, one.stat().st_mtime_ns, one.stat().st_size) for one in files if one.is_file()
    )
    return _open(path, name, state)


@lru_cache(maxsize=8)
def _open(path: Path, name: str, _state: tuple[tuple[str, int, int], ...]) -> Tokenizer:
    return (open_huggingface if is_tokenizer_json(path) else open_sentencepiece)(path, name=name)


def is_tokenizer_json(path: Path) -> bool:
    """Whether a file is JSON, as a tokenizer.json is and a SentencePiece model is not."""
    with path.open("rb") as file:
        return file.read(512).lstrip()[:1] == b"{"


def load_tokenizer(path: Path, vocab_size: int, *, name: str = "data.tokenizer=") -> Tokenizer:
    """Open a tokenizer with at most `vocab_size` tokens.

    Args:
        path: path of a SentencePiece model or of a tokenizer.json.
        vocab_size: number of rows of the language model's embedding.
        name: text before the path in messages.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a tokenizer, or it has more than `vocab_size` tokens.
    """
    tokenizer = open_tokenizer(path, name=name)
    size = tokenizer.vocab_size
    if size > vocab_size:
        raise ValueError(
            f"{name}{path} has {size} tokens, more than the model's vocab_size={vocab_size}; use "
            f"model.vocab_size={size} or more, or the model's own tokenizer"
        )
    return tokenizer


def find_tokenizer_file(folder: Path) -> Path | None:
    """The tokenizer in a folder; None if there is none.

    If a folder has both kinds, tokenizer.model is used, unless tokenizer.json has more tokens: it
    then has added tokens that a SentencePiece model cannot hold. A tokenizer.model of another
    kind, such as those of Llama 3, is passed over.
    """
    found = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if len(found) == 2:
        sentencepiece, other = found
        try:
            size = open_tokenizer(sentencepiece, name="tokenizer ").vocab_size
        except ValueError:
            return other
        return (
            other if open_tokenizer(other, name="tokenizer ").vocab_size > size else sentencepiece
        )
    return found[0] if found else None


def check_tokenizer_file(path: Path, *, name: str = "data.tokenizer=") -> None:
    """Check that a path is a file.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: it is a folder; the message names the tokenizer in it, if there is one.
    """
    if path.is_dir():
        inside = next((path / n for n in TOKENIZER_FILES if (path / n).is_file()), None)
        advice = _NEEDED if inside is None else f"give the file in it, {inside}"
        raise ValueError(f"{name}{path} is a folder; {advice}")
    if not path.is_file():
        raise FileNotFoundError(f"{name}{path} does not exist; {_NEEDED}")
