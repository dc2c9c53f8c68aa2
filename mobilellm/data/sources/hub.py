"""Datasets of the Hugging Face hub."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.data.config import DataConfig
from mobilellm.data.source import Chunk, Source, Split, document_chunks, read_texts
from mobilellm.data.sources.documents import compile_rule, join_sections
from mobilellm.data.sources.hub_access import offline_without_network

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


@dataclass(frozen=True, kw_only=True)
class HubRows(Source):
    """A dataset of the hub, or a local folder with the same layout."""

    dataset_name: str
    """Name of the dataset on the hub, e.g. `roneneldan/TinyStories`, or a local folder."""
    dataset_config: str | None = None
    """Configuration of the dataset, e.g. `sample-10BT`."""
    train_split: str = "train"
    """Split for training; slices such as `train[:10%]` are possible without streaming."""
    validation_split: str | None = None
    """Split for validation; default: documents are held out of the training split."""
    revision: str | None = None
    """A commit, tag or branch; only a commit guarantees the same text later."""
    streaming: bool = True
    """Read over the network as needed; false: download the whole dataset first."""

    @property
    def has_validation(self) -> bool:
        """Whether a validation split was given."""
        return self.validation_split is not None

    @property
    def is_local(self) -> bool:
        """False: a second reading may be a second download."""
        return False

    @property
    def default_name(self) -> str:
        """Name and configuration, without the owner."""
        name = self.dataset_name.rstrip("/").rpartition("/")[2]
        return f"{name}-{self.dataset_config}" if self.dataset_config else name

    def identity(self) -> Mapping[str, Any]:
        """The settings that identify the rows; the rows can change if no commit is given."""
        return {
            "format": "hub",
            "dataset_name": self.dataset_name,
            "dataset_config": self.dataset_config,
            "train_split": self.train_split,
            "validation_split": self.validation_split,
            "revision": self.revision,
        }

    def dataset(self, split: Split) -> "Dataset | IterableDataset":
        """The rows of a split.

        Raises:
            ConnectionError: the hub cannot be reached.
            ValueError: there is no such dataset, configuration or split.
        """
        from datasets import load_dataset

        unreachable = None
        try:
            with ExitStack() as stack:
                if not Path(self.dataset_name).is_dir():
                    unreachable = stack.enter_context(offline_without_network())
                return load_dataset(  # pyright: ignore[reportReturnType]
                    self.dataset_name,
                    self.dataset_config,
                    split=self.train_split if split == "train" else self.validation_split,
                    revision=self.revision,
                    streaming=self.streaming,
                )
        except (OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            reason = unreachable or reason
            kind = ConnectionError if isinstance(error, ConnectionError) else ValueError
            raise kind(
                f"data.dataset_name={self.dataset_name!r} cannot be loaded ({reason}); check the "
                "name, dataset_config, the split and the network, or use a local copy: "
                "data=parquet data.train=PATH"
            ) from error


@dataclass(frozen=True, kw_only=True)
class HubDataset(HubRows):
    """A dataset of the hub, or a local folder with the same layout; one document per row."""

    column: str = "text"
    """The column with the text."""
    document: str = "row"
    """`row`: each row is a document. Any other value is a regular expression: a row that it matches
    at the start begins a document, and the following rows continue it."""

    def __post_init__(self) -> None:
        """Check the regular expression."""
        self.check_values()
        compile_rule(self.document, choices=("row",))
        super().__post_init__()

    def identity(self) -> Mapping[str, Any]:
        """The settings that identify the rows, and the rule for documents."""
        return {**super().identity(), "column": self.column, "document": self.document}

    def chunks(self, split: Split) -> Iterator[Chunk]:
        """All rows in the dataset's order."""
        texts = read_texts(self.dataset(split), self.column, described=self.dataset_name)
        if self.document == "row":
            for text in texts:
                yield from document_chunks(text)
        else:
            yield from join_sections([texts], self.document)


@dataclass(frozen=True, kw_only=True)
class HubData(HubDataset, DataConfig):
    """Training data from the hub: `data=hub`, and presets such as `data=tinystories`."""
