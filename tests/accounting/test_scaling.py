"""Step time and communication on many GPUs: limits, a case by hand, what PyTorch really sends."""

import math
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from mobilellm.accounting import count_parameters, flops_per_token
from mobilellm.accounting.cluster import Cluster
from mobilellm.accounting.scaling import (
    communication_bytes,
    forecast_scaling,
    forecast_step,
)
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.training.sharding import apply_fully_shard_, gradient_sync

NUM_RANKS = 4
SHAPE = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_blocks": 3,
    "num_attention_heads": 4,
}
PRESETS = Path(__file__).parents[2] / "conf" / "model"


def preset(name):
    fields = OmegaConf.to_container(OmegaConf.load(PRESETS / f"{name}.yaml"))
    del fields["_target_"]
    return ModelConfig(**fields)


def forecast(num_gpus=8, config=None, **changes):
    options = {"sequences_per_gpu": 4, "sequence_length": 32, "precision": "32-true"} | changes
    return forecast_step(config or ModelConfig(**SHAPE), num_gpus, **options)


class SentBytes(TorchDispatchMode):
    """Adds up what a rank sends in the collectives of fully sharded training, by ring."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "c10d":
            whole = {"c10d::_allgather_base_": args[0], "c10d::_reduce_scatter_base_": args[1]}
            sent = whole[function.name()]
            self.total += sent.numel() * sent.element_size() * (NUM_RANKS - 1) // NUM_RANKS
        return function(*args, **(kwargs or {}))


@pytest.fixture
def ranks():
    """Stands for four ranks in one process: collectives move nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=NUM_RANKS)
    yield
    dist.destroy_process_group()


def run(model, forward):
    hidden = forward(torch.zeros(2, 8, dtype=torch.long), logits=False).hidden
    model.unembed(hidden).sum().backward()


CONFIGS = [
    ModelConfig(**SHAPE),
    ModelConfig(**SHAPE, tie_word_embeddings=False),
    ModelConfig(**SHAPE, block_repeats=2),
    ModelConfig(**SHAPE, block_repeats=3, layer_sharing="repeat_all"),
]


@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("config", CONFIGS)
def test_fully_sharded_training_sends_what_is_forecast(ranks, config, micro_batches):
    model = MobileLLM(config)
    apply_fully_shard_(model, init_device_mesh("cpu", (NUM_RANKS,)))
    with SentBytes() as sent:
        for left in reversed(range(micro_batches)):
            with gradient_sync(model, model, is_last=left == 0):
                run(model, model)
    assert sent.total == communication_bytes(
        config, NUM_RANKS, strategy="fsdp", precision="32-true", micro_batches=micro_batches
    )


@pytest.mark.parametrize("config", CONFIGS)
def test_ddp_reduces_what_is_forecast(ranks, config):
    buckets = []

    def reduce(_: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        buckets.append(bucket.buffer().numel() * bucket.buffer().element_size())
        done = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    model = MobileLLM(config)
    parallel = DistributedDataParallel(model)
    parallel.register_comm_hook(None, reduce)
    with parallel.no_sync():
        run(model, parallel)
    run(model, parallel)
    expected = communication_bytes(config, NUM_RANKS, precision="32-true", micro_batches=2)
    assert 2 * (NUM_RANKS - 1) * sum(buckets) // NUM_RANKS == expected


def test_weights_travel_in_their_own_type():
    config = ModelConfig(**SHAPE)
    mixed, half = (communication_bytes(config, 8, precision=p) for p in ("bf16-mixed", "bf16-true"))
    assert mixed == 2 * half == 2 * 7 * 4 * count_parameters(config).stored // 8


def test_one_gpu_sends_nothing_and_waits_for_nothing():
    for strategy in ("ddp", "fsdp"):
        one = forecast(1, strategy=strategy)
        assert one.communication_bytes == one.communication_seconds == one.exposed_seconds == 0
        assert one.efficiency == 1
        assert one.step_seconds == one.compute_seconds + one.optimizer_seconds


def test_a_case_by_hand():
    config = ModelConfig(**SHAPE)
    cluster = Cluster(
        flops_per_second=1e6, memory_bytes_per_second=1e5, gpus_per_node=2,
        node_bytes_per_second=1e4, network_bytes_per_second=2e3, node_latency_seconds=0.5,
        network_latency_seconds=3.0, overlap=0.25,
    )  # fmt: skip
    parameters = 64 * 16 + 3 * (4 * 16 * 16 + 3 * 16 * 32 + 2 * 16) + 16
    step = forecast(8, config, cluster=cluster)
    compute = 128 * flops_per_token(config, 32).training / 1e6
    update = 28 * parameters / 1e5  # AdamW reads four numbers of a weight, and writes three
    sent = 2 * 4 * parameters * 7 // 8
    # One bucket: there and back one hop inside of the node and two levels of the tree of 4 nodes;
    # two adapters of 2 kB/s are slower than the node's links.
    communication = 2 * (0.5 + 2 * 3.0) + sent / 4e3
    assert step.communication_bytes == sent
    assert step.compute_seconds == pytest.approx(compute)
    assert step.optimizer_seconds == pytest.approx(update)
    assert step.communication_seconds == pytest.approx(communication)
    hidden = min(communication / 4, compute * 2 / 3)
    assert step.exposed_seconds == pytest.approx(communication - hidden)
    whole = compute + update + communication - hidden
    assert step.step_seconds == pytest.approx(whole)
    assert step.tokens_per_second == pytest.approx(8 * 128 / whole)
    assert step.efficiency == pytest.approx((compute + update) / whole)
    assert step.exposed_share == pytest.approx((communication - hidden) / whole)

    sharded = forecast(8, config, cluster=cluster, strategy="fsdp", micro_batches=2)
    # A root, gathered in each of two micro-batches, and three blocks, gathered twice; all reduced
    # once. Each is a ring of four hops inside of nodes and three between them.
    latency = (2 * (1 + 3 * 2) + 1 + 3) * (4 * 0.5 + 3 * 3.0)
    assert sharded.communication_seconds == pytest.approx(
        latency + sharded.communication_bytes / 4e3
    )
    assert sharded.optimizer_seconds == pytest.approx(update / 8)


def test_what_is_hidden_fits_into_the_computing_it_hides_behind():
    slow = Cluster(node_bytes_per_second=1e6, overlap=1.0)
    for changes, share in (
        ({}, 2 / 3),
        ({"micro_batches": 4}, 1 / 6),
        ({"strategy": "fsdp"}, 1),
    ):
        step = forecast(8, cluster=slow, **changes)
        hidden = step.communication_seconds - step.exposed_seconds
        assert hidden == pytest.approx(share * step.compute_seconds, rel=1e-3)
    fast = forecast(
        8, cluster=Cluster(node_bytes_per_second=1e15, node_latency_seconds=0, overlap=1)
    )
    assert fast.exposed_seconds == 0
    assert fast.efficiency == 1


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_more_gpus_are_faster_and_less_efficient(strategy):
    config = preset("mobilellm_1_5b")
    steps = forecast_scaling(
        config, [1, 2, 4, 8, 16, 32, 64], tokens_per_step=2**21, sequence_length=2048,
        micro_batch_size=4, strategy=strategy,
    )  # fmt: skip
    for fewer, more in pairwise(steps[1:]):
        assert more.tokens_per_step == fewer.tokens_per_step == 2**21
        assert more.step_seconds < fewer.step_seconds
        assert more.efficiency < fewer.efficiency <= 1


def test_recomputing_costs_a_third_more():
    plain, again = (forecast(1, activation_checkpointing=on) for on in (False, True))
    assert again.compute_seconds == pytest.approx(4 / 3 * plain.compute_seconds)


def test_micro_batches_follow_from_their_size():
    config = ModelConfig(**SHAPE)
    (step,) = forecast_scaling(
        config, [2], tokens_per_step=32 * 20, sequence_length=32, micro_batch_size=4,
        strategy="fsdp", precision="32-true",
    )  # fmt: skip
    assert asdict(step) == asdict(
        forecast(2, sequences_per_gpu=10, micro_batches=3, strategy="fsdp")
    )


@pytest.mark.parametrize(
    ("name", "days"),
    [("125m", 3), ("350m", 6), ("600m", 8), ("1b", 12), ("1_5b", 18)],
)
def test_the_published_training_times_come_out_within_two_fifths(name, days):
    """10^12 tokens on 32 A100, days as published: README of facebookresearch/MobileLLM."""
    a100 = Cluster(
        flops_per_second=0.5 * 312e12, memory_bytes_per_second=1.6e12,
        node_bytes_per_second=230e9, network_bytes_per_second=23e9,
    )  # fmt: skip
    step = forecast_step(
        preset(f"mobilellm_{name}"), 32, sequences_per_gpu=32, sequence_length=2048, cluster=a100
    )
    forecast_days = 1e12 / step.tokens_per_second / 86400
    assert abs(math.log(forecast_days / days)) < math.log(1.4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_gpus": 0}, "num_gpus=0 must be a whole number of at least 1"),
        ({"num_gpus": 12}, "num_gpus=12 must fill its nodes of gpus_per_node=8; use 16, or at mo"),
        ({"strategy": "dpp"}, "strategy='dpp' is not known; use one of ddp, fsdp"),
        ({"micro_batches": 0}, "micro_batches=0 must be a whole number"),
        ({"sequences_per_gpu": 0}, "sequences_per_gpu=0 must be a whole number"),
    ],
)
def test_what_is_wrong_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        forecast(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap": 1.5}, "overlap=1.5 must be between 0 and 1"),
        ({"flops_per_second": 0}, "flops_per_second=0 must be above 0"),
        ({"network_latency_seconds": -1}, "network_latency_seconds=-1 must be at least 0"),
        ({"gpus_per_node": 0}, "gpus_per_node=0 must be a whole number"),
    ],
)
def test_a_cluster_is_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        Cluster(**changes)


def test_gpus_that_do_not_divide_the_step_are_refused():
    with pytest.raises(
        ValueError, match="tokens_per_step=100 must be divisible by num_gpus=8 x sequence_length=32"
    ):
        forecast_scaling(
            ModelConfig(**SHAPE), [8], tokens_per_step=100, sequence_length=32, micro_batch_size=4
        )
