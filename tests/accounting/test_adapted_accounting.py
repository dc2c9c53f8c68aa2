"""Costs of training adapters against what torch computes and keeps."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mobilellm.accounting import (
    activation_bytes,
    checkpoint_bytes,
    flops_per_token,
    optimizer_bytes,
    training_memory_bytes,
)
from mobilellm.accounting.parameters import trained_parameters
from mobilellm.accounting.scaling import communication_bytes
from mobilellm.adapters import Adapter
from mobilellm.models import MobileLLM, ModelConfig

SHAPE = {
    "vocab_size": 50, "hidden_size": 24, "intermediate_size": 40,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
NF4 = {"bits": 4, "group": 8, "levels": "normal"}


def adapted(targets=("blocks.*",), repeats=1, num_blocks=3, **settings):
    model = MobileLLM(ModelConfig(**SHAPE, num_blocks=num_blocks, block_repeats=repeats))
    return Adapter(rank=3, alpha=6, targets=targets, **settings).adapt(model, seed=0)


@pytest.mark.parametrize(
    ("repeats", "targets", "dora"),
    [(1, ["blocks.*"], False), (2, ["*.attention.*"], True), (1, ["*"], False)],
)
def test_operations_are_those_torch_counts(repeats, targets, dora):
    model = adapted(targets, repeats, dora=dora)
    ids = torch.randint(50, (2, 16))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(ids).logits.sum().backward()
    counts = {str(name): n for name, n in counter.get_flop_counts()["Global"].items()}
    found = sum(n for name, n in counts.items() if "bmm" not in name)
    flops = flops_per_token(model.config, 16)
    expected = 32 * (flops.training - 3 * flops.attention)
    if "*" in targets:
        # Rows of the table are multiplied by A, whose gradient and that of B are as large.
        expected += 32 * 3 * 2 * 3 * 24
    else:
        # Activations below the first adapter need no gradient: of the input of the first block, by
        # the frozen matrices and by A.
        width = (6 + 2 + 2) * 8
        expected -= 32 * 2 * (width * 24 + 3 * 3 * 24)
    if dora:
        sizes = model.config.matrix_sizes
        uses = [sizes[n] for n in model.config.layer_shapes] * repeats
        expected += sum(2 * 3 * out * width for out, width in uses)
        # Rescaling is counted as one operation for each output.
        expected -= 32 * 2 * sum(out for out, _ in uses)
    assert found == expected


@pytest.mark.parametrize("settings", [{}, {"dropout": 0.1}, {"dora": True}, {"quantized": NF4}])
def test_activations_are_what_autograd_keeps(settings):
    def kept(num_blocks, length):
        model = adapted(num_blocks=num_blocks, **settings).train()
        fixed = {t.untyped_storage().data_ptr() for t in model.state_dict().values()}
        found = {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in fixed:
                found[storage.data_ptr()] = (storage.nbytes(), tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(torch.randint(50, (1, length)), logits=False)
        return sum(size for size, _ in found.values())

    def forecast(num_blocks, length):
        return activation_bytes(adapted(num_blocks=num_blocks, **settings).config, 1, length)

    def slope(measure):
        """In blocks and tokens: free of what is there but once."""
        by_depth = [measure(blocks, 128) - measure(blocks, 64) for blocks in (2, 3)]
        return by_depth[1] - by_depth[0]

    # Norms that are not trained keep less than those that are.
    assert 0.95 < slope(forecast) / slope(kept) < 1.25


def test_gradients_and_states_are_those_of_the_adapter():
    model = adapted()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    config = model.config
    assert trained == trained_parameters(config)
    assert optimizer_bytes(config, "adamw") == 8 * trained
    assert checkpoint_bytes(config, "adamw") == 12 * trained
    assert training_memory_bytes(config, 1, 16).gradients == 4 * trained
    assert communication_bytes(config, 2, precision="32-true") == 4 * trained
