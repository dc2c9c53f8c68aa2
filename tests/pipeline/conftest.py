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
def corpus_tokenizer(tiny_run_folder: Path) -> Path:
    """The tokenizer of the tiny runs' data: what a teacher needs to have."""
    return tiny_run_folder / "model/tokenizer.model"


@pytest.fixture
def trained(tiny_run, tmp_path) -> Path:
    """The folder of a run of the tiny model on the test corpus."""
    summary = tiny_run("max_tokens=512")
    return next((tmp_path / "outputs").glob(f"*/{summary['run']}"))


@pytest.fixture
def made_up_rule(monkeypatch):
    """4,096 tokens of 2 layers of width 8: 128 tokens a step, and a rate of 0.01 x 2 ** 0.5."""
    from made_up_rule import RULE

    from mobilellm.optim.recipe_rule import RULES

    monkeypatch.setitem(RULES, "muon", RULE)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def later_rule(made_up_rule, monkeypatch):
    """As in a later version; a function that puts it into force."""
    from made_up_rule import LATER_RULE

    from mobilellm.optim.recipe_rule import RULES

    return lambda: monkeypatch.setitem(RULES, "muon", LATER_RULE)  # pyright: ignore


@pytest.fixture
def planned(tiny_overrides):
    """Plan the tiny run with settings that are `auto`."""
    from made_up_rule import AUTO

    from mobilellm.hydra_app.configuration import compose
    from mobilellm.pipeline.plan import plan_run

    return lambda *overrides: plan_run(compose("train", [*tiny_overrides, *AUTO, *overrides]))
