"""From text to training windows: sources, tokenizer, memory-mapped shards, order of samples.

Importing this package loads neither torch nor `datasets`; `mobilellm.data.windows` loads torch.
"""

from typing import Any

from mobilellm.data.config import DataConfig
from mobilellm.data.preparation.prepare import open_prepared, prepare_data
from mobilellm.data.prepared import PreparedData
from mobilellm.data.prepared_conversations import PreparedConversations
from mobilellm.data.prepared_preferences import PreparedPreferences
from mobilellm.data.source import Source
from mobilellm.data.sources.conversations import ConversationData, HubConversationData
from mobilellm.data.sources.hub import HubData, HubDataset
from mobilellm.data.sources.jsonl import JsonlData, JsonlFiles
from mobilellm.data.sources.mixture import Mixture, MixtureData
from mobilellm.data.sources.parquet import ParquetData, ParquetFiles
from mobilellm.data.sources.preferences import HubPreferenceData, PreferenceData
from mobilellm.data.sources.rationale_data import HubRationaleData, RationaleData
from mobilellm.data.sources.stdlib import StandardLibrary, StandardLibraryData
from mobilellm.data.sources.text import TextData, TextFiles
from mobilellm.data.sources.tokenized import TokenizedData, TokenizedJsonlFiles
from mobilellm.public_names import import_public_class

__all__ = [
    "ConversationData",
    "DataConfig",
    "HubConversationData",
    "HubData",
    "HubDataset",
    "HubPreferenceData",
    "HubRationaleData",
    "JsonlData",
    "JsonlFiles",
    "Mixture",
    "MixtureData",
    "ParquetData",
    "ParquetFiles",
    "PreferenceData",
    "PreparedConversations",
    "PreparedData",
    "PreparedPreferences",
    "RationaleData",
    "Source",
    "StandardLibrary",
    "StandardLibraryData",
    "TextData",
    "TextFiles",
    "TokenizedData",
    "TokenizedJsonlFiles",
    "open_prepared",
    "prepare_data",
]


def __getattr__(name: str) -> Any:
    """Import a source that is not listed above: `XData` or `XFiles` from `sources/x.py`."""
    suffix = "Files" if name.endswith("Files") else "Data"
    return import_public_class(__name__, name, files=f"{__name__}.sources", suffix=suffix)
