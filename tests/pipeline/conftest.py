"""Commands as a user gives them, stages of compression, and the tokenizer of the tiny runs."""

import os
from pathlib import Path

import pytest

TRAINING = str(Path(__file__).parents[1] / "training")


@pytest.fixture
def command(tiny_overrides):
    """Train as the command line would, which tells what was given from what conf/ says."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from mobilellm.hydra_app.configuration import config_loader, load
    from mobilellm.hydra_app.trial import without_hydra
    from mobilellm.pipeline.train import train

    def run(*overrides, kept=tiny_overrides):
        with config_loader() as loader:
            config = load(loader, "train", [*kept, *overrides], RunMode.RUN)
        HydraConfig.instance().set_config(config)
        return train(without_hydra(config))

    return run


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


@pytest.fixture
def trained(tiny_run, tmp_path) -> Path:
    """The folder of a run of the tiny model on the test corpus."""
    summary = tiny_run("max_tokens=512")
    return next((tmp_path / "outputs").glob(f"*/{summary['run']}"))
