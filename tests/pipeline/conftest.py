"""The recipe of tests/training serves here too, in commands as well."""

import os
import sys
from pathlib import Path

import pytest

TRAINING = str(Path(__file__).parents[1] / "training")
sys.path.insert(0, TRAINING)
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def low_rank_stages(monkeypatch):
    """Overrides: the feed-forward layers of both blocks in three stages, the first at once."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([TRAINING, os.environ.get("PYTHONPATH", "")]))
    return [
        "+compression._target_=low_rank_recipe.LowRank",
        "+compression.num_stages=3", "+compression.calibration_tokens=256",
    ]  # fmt: skip


@pytest.fixture
def corpus_tokenizer(tiny_overrides):
    """The tokenizer of the tiny runs' data: what a teacher needs to have."""
    from mobilellm.data import prepare_data
    from mobilellm.hydra_app.configuration import compose, instantiate

    return prepare_data(instantiate(compose("train", tiny_overrides).data)).tokenizer_path
