"""Compressed models on two processes: sharded (FSDP) and replicated (DDP), as on one."""

import gc

import pytest
import torch
import torch.multiprocessing
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.training.sharding import apply_fully_shard_

UP, QUERY = "blocks.0.feed_forward.up_proj", "blocks.1.attention.q_proj"
MIXED = {
    "parts": [
        {"left": (40, 1), "right": (1, 24), "num_terms": 3},
        {"left": (20, 12), "right": (2, 2)},
    ],
    "row_permutation": True,
}


def make_model():
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=62, hidden_size=24, intermediate_size=40, num_blocks=2, num_attention_heads=6,
        block_repeats=2, layer_sharing="reverse",
        compressed_layers={
            UP: MIXED,
            QUERY: {"nonzero": 300},
            "embedding": {"parts": [{"left": (31, 12), "right": (2, 2), "num_terms": 2}]},
        },
    )  # fmt: skip
    model = MobileLLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        for name, buffer in model.named_buffers():
            if name.endswith("_order"):
                buffer.copy_(torch.randperm(len(buffer)))
            else:
                buffer.copy_((torch.randperm(buffer.numel()) < 300).view_as(buffer))
    return model


def train(wrapped, tokens):
    """Three steps; the weights after them, whole."""
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=1e-2)
    for _ in range(3):
        wrapped(tokens).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    weights = {name.removeprefix("module."): p.detach() for name, p in wrapped.named_parameters()}
    return {n: w.full_tensor() if isinstance(w, DTensor) else w for n, w in weights.items()}


def make_tokens():
    return torch.randint(62, (4, 9), generator=torch.Generator().manual_seed(1))


def run(rank, strategy, folder):
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    torch.set_num_threads(1)
    model = make_model()
    if strategy == "fsdp":
        apply_fully_shard_(model, init_device_mesh("cpu", (2,)))
        assert all(isinstance(p, DTensor) for p in model.parameters())
    else:
        model = torch.nn.parallel.DistributedDataParallel(model)
    weights = train(model, make_tokens().chunk(2)[rank])
    if rank == 0:
        torch.save(weights, f"{folder}/weights.pt")
    distributed.barrier()
    # The wrapper refers to the group; a group that outlives the interpreter may abort the process.
    del model
    gc.collect()
    distributed.destroy_process_group()


@pytest.mark.parametrize("strategy", ["fsdp", pytest.param("ddp", marks=pytest.mark.slow)])
def test_two_processes_learn_what_one_learns(strategy, tmp_path):
    torch.multiprocessing.spawn(run, (strategy, str(tmp_path)), nprocs=2)
    alone = train(make_model(), make_tokens())
    together = torch.load(tmp_path / "weights.pt")
    assert alone.keys() == together.keys()
    for name, before in make_model().named_parameters():
        torch.testing.assert_close(together[name], alone[name], atol=2e-4, rtol=1e-3, msg=name)
        assert not torch.equal(alone[name], before)
