"""How many second moments are in memory at a time, counted by the tensors that are alive."""

import weakref

import pytest
import torch

from mobilellm.compression import calibration as module
from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.awq import AWQ
from mobilellm.compression.factorization import Factorization
from mobilellm.compression.gptq import GPTQ
from mobilellm.compression.pruning import Pruning
from mobilellm.compression.structured_pruning import StructuredPruning
from mobilellm.models import MobileLLM, ModelConfig

WIDTH = 24
RECIPES = {
    "awq": AWQ(group=8, num_exponents=2),
    "gptq": GPTQ(group=8),
    "sparsegpt": Pruning(),
    "outputs": Factorization(),
    "propagated, pivoted": Factorization(fit="propagated", pivoted=True),
    "searched": Factorization(allocation="searched", layers=["blocks.*.feed_forward.*"]),
    "searched products": Factorization(
        parts=[{"right": [4, 2]}], allocation="searched", layers=["blocks.*.feed_forward.*"]
    ),
    "structured": StructuredPruning(keep_channels=0.5, keep_heads=0.5),
}


def make_model(num_blocks):
    torch.manual_seed(0)
    return MobileLLM(ModelConfig(
        vocab_size=48, hidden_size=16, intermediate_size=WIDTH, num_blocks=num_blocks,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    ))  # fmt: skip


def make_batches():
    ids = torch.randint(48, (12, 33), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": rows[:, :-1], "labels": rows[:, 1:]} for rows in ids.split(6)]


class LiveTensors:
    """The largest number of bytes of registered tensors that were alive at the same time."""

    def __init__(self):
        self.tensors, self.most = {}, 0

    def add(self, *tensors):
        for tensor in tensors:
            if tensor is not None:
                self.tensors[id(tensor)] = weakref.ref(tensor)
        alive = {id(t): t.nbytes for ref in self.tensors.values() if (t := ref()) is not None}
        self.most = max(self.most, sum(alive.values()))


@pytest.fixture
def live(monkeypatch):
    found, init = LiveTensors(), Metric.__init__

    class Watched(module.Moments):
        def __post_init__(self):
            found.add(self.inputs, self.cross)

    def watched(self, moment=None, rows=None):
        init(self, moment, rows)
        found.add(self.moment, self._root)

    monkeypatch.setattr(module, "Moments", Watched)
    monkeypatch.setattr(Metric, "__init__", watched)
    return found


SLOW = ("searched products",)
CASES = [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in RECIPES]


@pytest.mark.parametrize("name", CASES)
def test_the_moments_of_one_input_at_a_time_are_in_memory(name, live):
    recipe, batches = RECIPES[name], make_batches()
    most = {}
    for num_blocks in (1, 3):
        live.most, model = 0, make_model(num_blocks)
        recipe.apply(model, recipe.plan(model, batches), batches)
        most[num_blocks] = live.most
    one = 8 * WIDTH**2
    # The moment, that with the teacher, the damped moment, its root, and one of the last input.
    assert one <= most[1] <= 6 * one
    assert most[3] == most[1]


def test_matrices_with_one_input_share_its_moments():
    model, batches = make_model(2), make_batches()
    names = [f"blocks.1.attention.{kind}_proj" for kind in "qkvo"]
    moments = module.gather_moments(model, batches, names)
    assert moments[names[0]] is moments[names[1]] is moments[names[2]] is not moments[names[3]]
    alone = module.gather_moments(model, batches, names[2:3])[names[2]]
    assert torch.equal(alone.inputs, moments[names[2]].inputs)


def test_a_forward_pass_ends_where_the_inputs_are_known():
    model, batches, run = make_model(2), make_batches(), []
    for index, block in enumerate(model.blocks):
        block.feed_forward.register_forward_hook(lambda *_, index=index: run.append(index))
    module.gather_moments(model, batches, ["blocks.1.attention.o_proj"])
    assert run == [0] * len(batches)
    module.gather_moments(model, batches, ["blocks.1.attention.o_proj", "embedding"])
    assert run == [0, 0, 0, 1, 0, 1]
