"""Batched Muon against torch's, one matrix after the other, and against singular values."""

import os
from datetime import timedelta

import pytest
import torch

from mobilellm.optim import batched_muon, shared_work
from mobilellm.optim.batched_muon import BatchedMuon, orthogonalized

JORDAN = (3.4445, -4.7750, 2.0315)
SIZES = [(8, 8), (24, 8), (8, 24), (64, 16), (8, 8), (24, 8), (1, 5), (64, 16), (64, 16)]


def matrices(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator) for size in SIZES]


@pytest.mark.parametrize("adjust", ["match_rms_adamw", "original"])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("largest", [2**24, 2048, 1])
def test_it_is_torchs_muon(adjust, nesterov, largest, monkeypatch):
    monkeypatch.setattr(batched_muon, "LARGEST_BATCH_ON_CPU", largest)
    ours, theirs = ([torch.nn.Parameter(m) for m in matrices(0)] for _ in range(2))
    options = {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": adjust, "nesterov": nesterov}
    optimizers = BatchedMuon(ours, **options), torch.optim.Muon(theirs, **options)
    for step in range(1, 4):
        for parameters in (ours, theirs):
            for parameter, gradient in zip(parameters, matrices(step), strict=True):
                parameter.grad = gradient.clone()
        ours[4].grad = theirs[4].grad = None
        for optimizer in optimizers:
            optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        # bfloat16 has 8 bits; a step moves entries by about the rate.
        torch.testing.assert_close(mine, other, rtol=0, atol=0.02 * 2**-6)
    states = [{k: v for k, v in o.state_dict().items()} for o in optimizers]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    for place, state in states[1]["state"].items():
        mine = states[0]["state"][place]["momentum_buffer"]
        torch.testing.assert_close(mine, state["momentum_buffer"])


@pytest.mark.parametrize("capability", ["avx512_bf16", "amx_bf16", "avx2"])
def test_products_are_in_float32_on_a_cpu_without_instructions_for_bfloat16(
    capability, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})
    given = matrices(0)[3]
    found = orthogonalized(given, JORDAN, steps=5, eps=1e-7)
    assert found.dtype == (torch.float32 if capability == "avx2" else torch.bfloat16)
    if capability == "avx2":
        expected = given.double() / given.double().norm()
        for _ in range(5):
            powers = expected, expected @ expected.T @ expected
            powers += (powers[1] @ expected.T @ expected,)
            expected = sum(c * p for c, p in zip(JORDAN, powers, strict=True))
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(3, 32, 32), (5, 16, 64), (2, 96, 24)])
def test_singular_values_end_near_one_and_directions_stay(size):
    generator = torch.Generator().manual_seed(1)
    given = torch.randn(size, generator=generator)
    found = orthogonalized(given, JORDAN, steps=5, eps=1e-7).double()
    left, values, right = torch.linalg.svd(given.double(), full_matrices=False)
    kept = (left.mT @ found @ right.mT).diagonal(dim1=-2, dim2=-1)
    # The polynomial ends between 0.68 and 1.14 for all but the smallest singular values.
    large = values > 0.02 * values[..., :1]
    assert kept[large].min() > 0.6 and kept[large].max() < 1.25
    rebuilt = left * kept[..., None, :] @ right
    assert (found - rebuilt).norm() < 0.02 * found.norm()


def test_a_closure_is_called_once_before_the_step():
    parameter = torch.nn.Parameter(torch.eye(4))
    calls = []

    def closure():
        calls.append(parameter.detach().clone())
        parameter.grad = torch.ones(4, 4)
        return 3.0

    assert BatchedMuon([parameter], lr=0.1).step(closure) == 3.0
    [before] = calls
    assert torch.equal(before, torch.eye(4)) and not torch.equal(parameter, before)


def train_some_steps():
    """The matrices after three steps."""
    parameters = [torch.nn.Parameter(m) for m in matrices(0)]
    optimizer = BatchedMuon(parameters, lr=0.02, weight_decay=0.1)
    for step in range(1, 4):
        for parameter, gradient in zip(parameters, matrices(step), strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def train_as_rank(rank, folder):
    """The same as one of two processes; also the number of matrices that it orthogonalised."""
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=2, timeout=timedelta(minutes=1)
    )
    counts = []

    def counted(given, **options):
        counts.append(len(given) if given.ndim == 3 else 1)
        return orthogonalized(given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_work, "SHARED_ON", ("cpu",))
        patch.setattr(batched_muon, "orthogonalized", counted)
        trained = train_some_steps()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return trained, sum(counts)


def test_two_ranks_share_the_work_and_have_the_result_of_one(tmp_path):
    alone = train_some_steps()
    child = os.fork()
    if child == 0:
        torch.save(train_as_rank(1, tmp_path), tmp_path / "child.pt")
        os._exit(0)
    mine, my_count = train_as_rank(0, tmp_path)
    assert os.waitpid(child, 0)[1] == 0
    theirs, their_count = torch.load(tmp_path / "child.pt")
    for one, first, second in zip(alone, mine, theirs, strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, one, rtol=0, atol=1e-6)
    # In each step, both compute the two that have a size of their own, and share the seven others.
    assert (my_count, their_count) == (3 * (2 + 4), 3 * (2 + 3))


def test_a_refused_step_changes_nothing():
    parameters = [torch.nn.Parameter(m) for m in matrices(0)]
    optimizer = BatchedMuon(parameters, lr=0.02, weight_decay=0.1)
    for refused in (0.0, 1.0):
        optimizer.found_inf = torch.tensor(refused)
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, float("nan") if refused else 1.0)
        before = [parameter.detach().clone() for parameter in parameters]
        momentum = [state["momentum_buffer"].clone() for state in optimizer.state.values()]
        optimizer.step()
        is_equal = [torch.equal(p, old) for p, old in zip(parameters, before, strict=True)]
        assert is_equal == [refused == 1.0] * len(parameters)
    for state, old in zip(optimizer.state.values(), momentum, strict=True):
        assert torch.equal(state["momentum_buffer"], old)
