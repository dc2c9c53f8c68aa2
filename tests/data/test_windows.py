import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mobilellm.data.windows import WindowBatchSampler, WindowDataset
from mobilellm.labels import IGNORE_INDEX

EOS = 2


def naive_windows(tokens, length):
    windows, start = [], 0
    while start + length + 1 <= len(tokens):
        windows.append((tokens[start : start + length], tokens[start + 1 : start + length + 1]))
        start += length
    return windows


def random_stream(size, seed=0):
    return np.random.default_rng(seed).integers(0, 9, size).astype(np.uint16)


@pytest.mark.parametrize("size", [2, 8, 9, 10, 57, 128])
@pytest.mark.parametrize("length", [1, 3, 7, 8])
def test_windows_equal_the_naive_cut(size, length):
    tokens = random_stream(size)
    expected = naive_windows(tokens.tolist(), length)
    if not expected:
        pytest.skip("shorter than a window")
    windows = WindowDataset(tokens, length)
    assert len(windows) == len(expected)
    for item, (inputs, labels) in zip(
        map(windows.__getitem__, range(len(windows))), expected, strict=True
    ):
        assert item["input_ids"].dtype == item["labels"].dtype == torch.int64
        assert item["input_ids"].tolist() == inputs
        assert item["labels"].tolist() == labels
        assert "document_ids" not in item


def test_every_token_but_the_first_is_a_label_at_most_once():
    tokens = np.arange(1, 100, dtype=np.uint16)
    windows = WindowDataset(tokens, 7)
    labels = [label for i in range(len(windows)) for label in windows[i]["labels"].tolist()]
    assert labels == tokens[1 : 1 + len(labels)].tolist()
    assert len(tokens) - 1 - len(labels) < 7


def test_document_mask_isolates_documents():
    tokens = random_stream(200, seed=3)
    windows = WindowDataset(tokens, 16, eos_token_id=EOS, document_mask=True)
    for index in range(len(windows)):
        item = windows[index]
        plain = WindowDataset(tokens, 16)[index]
        assert torch.equal(item["input_ids"], plain["input_ids"])
        document = 0
        for t, token in enumerate(item["input_ids"].tolist()):
            assert item["document_ids"][t] == document
            if token == EOS:
                assert item["labels"][t] == IGNORE_INDEX
                document += 1
            else:
                assert item["labels"][t] == plain["labels"][t]


def test_items_can_be_batched_and_written_to():
    loader = DataLoader(WindowDataset(random_stream(50), 4), batch_size=3)
    batch = next(iter(loader))
    assert batch["input_ids"].shape == (3, 4)
    WindowDataset(random_stream(50), 4)[0]["labels"].zero_()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"sequence_length": 0}, "sequence_length=0 must be at least 1"),
        (
            {"sequence_length": 20},
            "sequence_length=20 needs 21 tokens for one window, the data has 20; "
            "use a sequence_length of at most 19",
        ),
        (
            {"sequence_length": 4, "document_mask": True},
            "document_mask=true needs eos_token_id; give it",
        ),
    ],
)
def test_bad_windows_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        WindowDataset(random_stream(20), **kwargs)


def test_a_window_that_does_not_exist():
    with pytest.raises(IndexError, match="window 4 does not exist; there are 4"):
        WindowDataset(random_stream(20), 4)[4]


def sampler(num_windows=37, samples_per_step=12, micro_batch_size=1, **kwargs):
    return WindowBatchSampler(
        num_windows,
        seed=kwargs.pop("seed", 5),
        samples_per_step=samples_per_step,
        micro_batch_size=micro_batch_size,
        **kwargs,
    )


def test_each_epoch_is_a_permutation_of_its_own():
    stream = list(itertools.chain.from_iterable(sampler(stop=37 * 4)))
    epochs = [stream[e * 37 : (e + 1) * 37] for e in range(4)]
    assert all(sorted(epoch) == list(range(37)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("micro_batch_size", [1, 3])
def test_a_step_has_the_same_samples_on_any_number_of_ranks(world_size, micro_batch_size):
    steps, per_step = 11, 36
    reference = list(itertools.chain.from_iterable(sampler(stop=steps * per_step)))
    ranks = [
        list(
            sampler(
                samples_per_step=per_step,
                micro_batch_size=micro_batch_size,
                stop=steps * per_step,
                rank=rank,
                world_size=world_size,
            )
        )
        for rank in range(world_size)
    ]
    batches_per_step = per_step // (world_size * micro_batch_size)
    for step in range(steps):
        here = slice(step * batches_per_step, (step + 1) * batches_per_step)
        # Micro-batch by micro-batch, ranks in order: the very same sequence.
        together = [
            w for batches in zip(*(r[here] for r in ranks), strict=True) for b in batches for w in b
        ]
        assert together == reference[step * per_step : (step + 1) * per_step]


@pytest.mark.parametrize("steps_done", [0, 1, 2, 3, 7, 20])
@pytest.mark.parametrize("world_size", [1, 2])
def test_resuming_gives_the_tail(steps_done, world_size):
    for rank in range(world_size):
        common = {"micro_batch_size": 2, "rank": rank, "world_size": world_size, "stop": 300}
        whole = list(sampler(**common))
        tail = list(sampler(start=steps_done * 12, **common))
        assert tail == whole[steps_done * (12 // (2 * world_size)) :]


def test_a_run_can_go_on_with_other_ranks_and_step_sizes():
    reference = list(itertools.chain.from_iterable(sampler(stop=120)))
    first = list(itertools.chain.from_iterable(sampler(stop=36)))
    second = [
        list(
            sampler(
                samples_per_step=28,
                micro_batch_size=7,
                start=36,
                stop=120,
                world_size=2,
                rank=rank,
            )
        )
        for rank in range(2)
    ]
    assert first + [w for pair in zip(*second, strict=True) for b in pair for w in b] == reference


def test_without_stop_it_never_ends():
    endless = sampler()
    assert len(list(itertools.islice(endless, 1000))) == 1000
    with pytest.raises(TypeError, match="no length"):
        len(endless)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("stop", [0, 1, 11, 12, 13, 37, 50])
def test_stop_cuts_exactly_and_length_is_right(stop, world_size):
    ranks = [
        sampler(
            64,
            samples_per_step=24,
            micro_batch_size=4,
            stop=stop,
            rank=rank,
            world_size=world_size,
            shuffle=False,
        )
        for rank in range(world_size)
    ]
    batches = [list(rank) for rank in ranks]
    assert [len(rank) for rank in ranks] == [len(b) for b in batches]
    assert sorted(w for b in batches for batch in b for w in batch) == list(range(stop))
    assert all(batch for b in batches for batch in b)


def test_seeds_give_other_orders_and_the_same_seed_the_same():
    runs = [list(sampler(stop=36, seed=seed)) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_works_as_a_batch_sampler():
    windows = WindowDataset(np.arange(38 * 4, dtype=np.uint16), 4)
    batches = sampler(len(windows), micro_batch_size=6, stop=24)
    loader = DataLoader(windows, batch_sampler=batches)
    starts = [row[0].item() // 4 for batch in loader for row in batch["input_ids"]]
    assert starts == [w for batch in batches for w in batch]
    assert len(loader) == 4


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_windows": 0}, "num_windows=0 must be at least 1"),
        ({"micro_batch_size": 0}, "micro_batch_size=0 must be at least 1"),
        ({"rank": 2, "world_size": 2}, "rank=2 must be at least 0 and below world_size=2"),
        ({"start": 4, "stop": 3}, "start=4 and stop=3 must satisfy"),
        (
            {"micro_batch_size": 5, "world_size": 2},
            "samples_per_step=12 must be divisible by world_size=2 times micro_batch_size=5; "
            "use a multiple of 10, or another micro_batch_size",
        ),
    ],
)
def test_bad_sizes_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        sampler(**kwargs)
