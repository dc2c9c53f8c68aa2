"""The plan of a run with compression: kept as soon as it is made, whatever fails afterwards."""

import json
from types import SimpleNamespace

import pytest
import torch

from mobilellm.callbacks.compression import CompressionCallback
from mobilellm.compression.factorization import Factorization
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.pipeline.compression import FOLDER, PLAN, _plan
from mobilellm.training.training_budget import TrainingBudget


class Counting(Factorization):
    """Counts how often it plans."""

    made = 0

    def plan(self, model, calibration):
        type(self).made += 1
        return super().plan(model, calibration)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MobileLLM(ModelConfig(vocab_size=48, hidden_size=16, intermediate_size=24,
                                 num_blocks=2, num_attention_heads=4))  # fmt: skip


def test_a_plan_that_cannot_be_divided_into_stages_is_not_lost(model, tmp_path):
    run = SimpleNamespace(
        folder=tmp_path, budget=TrainingBudget(max_steps=200, tokens_per_step=128)
    )
    recipe = Counting(fit="weights")
    Counting.made = 0
    too_many = CompressionCallback(recipe, num_stages=100)  # fourteen matrices
    with pytest.raises(ValueError, match="num_stages=100 is more than the 14 layers"):
        _plan(run, too_many, model, [], 0)
    saved = json.loads((tmp_path / FOLDER / PLAN).read_text(encoding="utf-8"))
    assert len(saved["plan"]["layers"]) == 14
    plans = [_plan(run, CompressionCallback(recipe, num_stages=2), model, [], n) for n in (0, 1)]
    assert [len(plan.layers) for plan in plans] == [7, 7]
    assert Counting.made == 1
