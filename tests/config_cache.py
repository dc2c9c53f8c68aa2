"""Reads each file of conf/ once: tests compose thousands of configurations of the same files."""

import copy
from pathlib import Path

from hydra._internal.config_repository import ConfigRepository

CONF = Path(__file__).resolve().parents[1] / "conf"


def keep_read_files() -> None:
    """Let Hydra keep what it has read of conf/ and of its own files, and give out copies."""
    read = ConfigRepository.load_config
    kept = {}

    def load_config(self: ConfigRepository, config_path: str):
        place = tuple(source.scheme() + source.path for source in self.sources)
        folders = [source.path for source in self.sources if source.scheme() == "file"]
        # Files of other folders may change, and the schema of the root differs between commands.
        if "/" not in config_path or folders != [str(CONF)]:
            return read(self, config_path)
        if (place, config_path) not in kept:
            kept[place, config_path] = read(self, config_path)
        return copy.deepcopy(kept[place, config_path])

    ConfigRepository.load_config = load_config
