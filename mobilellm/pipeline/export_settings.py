"""The settings of an export, and which of them each format has."""

from dataclasses import dataclass

from mobilellm.models.checks import check_choice

FORMATS = ("huggingface", "gguf", "executorch")
_OPTIONS = {
    "huggingface": ("--custom-code",),
    "gguf": ("--type", "--table-type", "--fallback", "--pre-tokenizer"),
    "executorch": ("--type", "--context"),
}


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """The format of an export, and how the weights are stored.

    Raises:
        ValueError: the format is not known, or does not have a setting that is given.
    """

    format: str
    """One of `FORMATS`."""
    kind: str | None = None
    """Type of the matrices; None: the default of the format."""
    table_kind: str | None = None
    """Type of the token embedding and of an output head of its own; None: `kind`."""
    fallback: str | None = None
    """Type of the matrices that cannot be written in their type; None: they are refused."""
    pre_tokenizer: str | None = None
    """What llama.cpp calls the way in which the tokenizer splits text into words; None: it is
    recognised."""
    custom_code: bool = False
    """Whether a Hugging Face folder gets a modelling file of its own."""
    context: int | None = None
    """Tokens that the cache of an ExecuTorch program has room for; None: the default."""

    def __post_init__(self) -> None:
        """Check that no setting is without effect."""
        check_choice("--format", self.format, FORMATS)
        given = {
            "--type": self.kind, "--table-type": self.table_kind, "--fallback": self.fallback,
            "--pre-tokenizer": self.pre_tokenizer, "--custom-code": self.custom_code,
            "--context": self.context,
        }  # fmt: skip
        for name, value in given.items():
            if value not in (None, False) and name not in _OPTIONS[self.format]:
                having = [one for one in FORMATS if name in _OPTIONS[one]]
                raise ValueError(
                    f"{name} has no effect on --format {self.format}; leave it out, or use "
                    f"--format {' or '.join(having)}"
                )
