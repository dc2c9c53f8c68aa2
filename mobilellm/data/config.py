"""The settings that every kind of training data shares."""

from dataclasses import dataclass

from mobilellm.data.source import Source
from mobilellm.data.tokenizers.training import SMALLEST, TokenizerKind

DEFAULT_HELD_OUT = 0.05


@dataclass(frozen=True, kw_only=True)
class DataConfig(Source):
    """Settings for converting text to token shards; subclasses in `sources/` add the source.

    The constructor checks the values and reads no file; `resolve_data` reads the tokenizer.

    Raises:
        ValueError: a value is out of range, or two settings contradict each other.
    """

    vocab_size: int
    """Vocabulary size of the model in tokens. A new tokenizer is trained with exactly this many
    tokens; a given tokenizer may have at most this many."""
    name: str | None = None
    """Name of the data in folder names and reports; default: derived from the source."""
    prepared_dir: str = "prepared"
    """Parent folder of the default `dir`."""
    dir: str | None = None
    """Folder of the tokenizer and the shards; default: `prepared_dir`/`name`-`vocabulary size`, or,
    with a given tokenizer, `prepared_dir`/`name`-`hash of the tokenizer` unless the former folder
    was prepared with the same tokenizer."""
    tokenizer: str | None = None
    """A tokenizer.model or tokenizer.json to use; default: one is trained on the training text."""
    tokenizer_kind: TokenizerKind = "sentencepiece"
    """The kind of a new tokenizer: `sentencepiece`, or `byte_level` (a tokenizer.json)."""
    tokenizer_sample_megabytes: float = 16.0
    """Train the tokenizer on at most this much text (10**6 bytes), spread evenly."""
    held_out: float | None = None
    """Fraction of the documents held out for validation if there is no validation split; default
    0.05. If there are too few documents to hold out whole ones, the end of the text is held out."""
    max_megabytes: float | None = None
    """Use only the first documents up to this much text (10**6 bytes); default: all documents."""
    add_bos: bool | None = None
    """Begin each document with the begin-of-text token; default: as the tokenizer's settings say
    (`add_bos_token`), and as the model's do where there is one."""
    add_eos: bool | None = None
    """End each document with the end-of-text token; default: true, except where documents begin
    with a begin-of-text token and the tokenizer's settings add no end-of-text token."""
    document_mask: bool = False
    """Whether attention is limited to the tokens of one document if several share a window. It does
    not change the prepared data."""
    workers: int | None = None
    """Number of tokenizing processes; default: one per core, fewer for a small corpus."""

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        self.check_values()
        self._check_vocab_size()
        separated = self.add_eos is not False or self.add_bos is not False
        if self.document_mask and not separated and not self.is_tokenized:
            raise ValueError(
                "data.document_mask=true finds documents by the end-of-text token, which "
                "data.add_eos=false omits; use data.add_eos=true"
            )
        self._check_held_out()

    def _check_vocab_size(self) -> None:
        size = self.vocab_size
        trains_tokenizer = self.tokenizer is None and not self.is_tokenized
        smallest = SMALLEST[self.tokenizer_kind]
        if trains_tokenizer and size <= smallest:
            special = smallest - 256
            raise ValueError(
                f"data.vocab_size={size} is too small to train a tokenizer: {special} special "
                f"token{'s' if special > 1 else ''} and 256 byte tokens leave no room for others; "
                "use model.vocab_size=512 or more"
            )
        if self.tokenizer_kind != "sentencepiece" and not trains_tokenizer:
            given = "token ids" if self.is_tokenized else f"data.tokenizer={self.tokenizer}"
            raise ValueError(
                f"data.tokenizer_kind={self.tokenizer_kind} is the kind of a new tokenizer, and "
                f"has no effect on {given}; leave out one of them"
            )

    def _check_held_out(self) -> None:
        if self.held_out is None:
            return
        if self.has_validation:
            raise ValueError(
                f"data.held_out={self.held_out} and a validation split are both given; leave out "
                "one of them"
            )

    @property
    def always_ends(self) -> bool:
        """Whether documents end with the end-of-text token in any case."""
        return False

    @property
    def held_out_share(self) -> float:
        """Fraction of the training documents held out; 0 if there is a validation split."""
        if self.has_validation:
            return 0.0
        return DEFAULT_HELD_OUT if self.held_out is None else self.held_out
