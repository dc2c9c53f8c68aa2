"""Blocks are compiled in every trial of a process, and whoever asks is told whether they were."""

import logging

import pytest
import torch
from small_run import make_model

from mobilellm.training.compilation import (
    compile_blocks_,
    compiled_graphs,
    uncompiled_frames,
    warn_if_uncompiled,
)

dynamo = pytest.importorskip("torch._dynamo")


@pytest.fixture(autouse=True)
def own_limits():
    """PyTorch's usual limits, and nothing compiled, before and after each test."""
    with dynamo.config.patch(recompile_limit=2, accumulated_recompile_limit=64):
        dynamo.reset()
        yield
    dynamo.reset()


def step(model):
    model(torch.arange(16).view(2, 8)).logits.sum().backward()


def test_every_trial_of_a_process_is_compiled():
    graphs = []
    for width in (8, 16, 24, 32):
        model = make_model(intermediate_size=width)
        with dynamo.config.patch(recompile_limit=1):
            # What a trial needs it gets, whatever the trials before it used up.
            compile_blocks_(model, backend="eager")
            step(model)
        graphs.append(compiled_graphs())
        assert uncompiled_frames() == 0
    assert graphs == [1, 1, 1, 1]


def test_blocks_of_many_shapes_are_all_compiled():
    model = make_model(num_blocks=5, intermediate_size=(8, 16, 24, 32, 40))
    compile_blocks_(model, backend="eager")
    step(model)
    assert (compiled_graphs(), uncompiled_frames()) == (5, 0)


def test_blocks_that_ran_uncompiled_are_told_of(caplog):
    model = make_model(num_blocks=3, intermediate_size=(8, 16, 24))
    compile_blocks_(model, backend="eager")
    with caplog.at_level(logging.WARNING), dynamo.config.patch(recompile_limit=1):
        step(model)
        warn_if_uncompiled()
    assert compiled_graphs() == 1
    assert uncompiled_frames() >= 1
    assert "compiled 1 graphs of the blocks and ran" in caplog.text
    caplog.clear()
    compile_blocks_(model, backend="eager")
    with caplog.at_level(logging.WARNING):
        step(model)
        warn_if_uncompiled()
    assert not [record for record in caplog.records if record.name.startswith("mobilellm")]


PART = {"left": (24, 1), "right": (1, 16), "num_terms": 4}
COMPRESSED = {f"blocks.{block}.feed_forward.up_proj": {"parts": [PART]} for block in range(2)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "graphs"),
    [
        ({"block_repeats": 2, "layer_sharing": "repeat_all"}, 1),
        ({"block_repeats": 2, "share_kv": "first"}, 2),
        ({"intermediate_size": (24, 16), "num_key_value_heads": (2, 4)}, 2),
        ({"compressed_layers": COMPRESSED}, 1),
    ],
)
def test_compiled_steps_equal_plain_ones(changes, graphs):
    """Shared blocks, blocks of their own shapes and compressed ones; and another batch size."""
    ids = torch.arange(32).view(4, 8)

    def gradients(model):
        for rows in (ids, ids[:2]):  # a full batch, and the last one of a validation
            model(rows).logits.square().mean().backward()
        return {name: weight.grad for name, weight in model.named_parameters()}

    expected = gradients(make_model(**changes))
    model = make_model(**changes)
    compile_blocks_(model, backend="eager")
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-6)
    # Twice: the second batch size is compiled with a dynamic size, and further ones need no more.
    assert (compiled_graphs(), uncompiled_frames()) == (2 * graphs, 0)
    model(ids[:3])
    assert compiled_graphs() == 2 * graphs
