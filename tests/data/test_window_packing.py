"""Packing: nothing lost, nothing cut, nothing leaks from one sequence to the next."""

import numpy as np
import pytest
import torch

from mobilellm.data.packing import PackedDataset, pack
from mobilellm.models import MobileLLM, ModelConfig

VOCAB, EOS = 41, 2


def naive_first_fit(lengths, capacity):
    """Every window stays open."""
    filled, places = [], []
    for length in lengths:
        place = next((i for i, used in enumerate(filled) if used + length <= capacity), len(filled))
        if place == len(filled):
            filled.append(0)
        filled[place] += length
        places.append(place)
    return places


def make(count=50, sequence_length=24, seed=0):
    """Random prompts and targets in one stream, their bounds and tasks."""
    rng = np.random.default_rng(seed)
    parts = [rng.integers(3, VOCAB, size) for size in rng.integers(1, 10, 2 * count)]
    parts[1::2] = [np.append(part, EOS) for part in parts[1::2]]
    starts = np.cumsum([0, *map(len, parts)])
    bounds = np.stack([starts[:-1:2], starts[1::2], starts[2::2]], axis=1)
    tasks = np.tile([1, 2], count // 2)
    tokens = np.concatenate(parts).astype(np.uint16)
    windows = PackedDataset(tokens, bounds, tasks, sequence_length, padding=EOS)
    return windows, parts, tasks


def found_in(window):
    """The sequences of a window, read off the item alone: input ids, labels, task."""
    ids = window["document_ids"]
    for number in range(int(ids[-1]) + 1):
        mine = ids == number
        labels, tasks = window["labels"][mine], window["tasks"][mine]
        if (labels == -100).all():
            continue
        (task,) = set(tasks[labels != -100].tolist())
        assert set(tasks[labels == -100].tolist()) <= {0}
        yield window["input_ids"][mine].tolist(), labels.tolist(), task


def test_first_fit_as_long_as_few_windows_are_open():
    lengths = np.random.default_rng(1).integers(1, 20, 300)
    assert pack(lengths, 64).tolist() == naive_first_fit(lengths, 64)


def test_many_windows_are_filled_nearly_as_well_as_by_the_best():
    lengths = np.random.default_rng(2).integers(1, 64, 5000)
    places = pack(lengths, 64)
    fill = np.bincount(places, weights=lengths)
    assert fill.max() <= 64
    assert sorted(set(places.tolist())) == list(range(places.max() + 1))
    assert len(fill) <= 1.05 * len(set(naive_first_fit(lengths, 64)))


def test_each_sequence_is_there_once_and_whole_with_labels_on_its_target():
    windows, parts, tasks = make()
    assert 2 < len(windows) < 50
    found = sorted(item for index in range(len(windows)) for item in found_in(windows[index]))
    expected = sorted(
        (
            [*prompt, *target[:-1]],
            [-100] * (len(prompt) - 1) + target.tolist(),
            task,
        )
        for prompt, target, task in zip(parts[::2], parts[1::2], tasks.tolist(), strict=True)
    )
    assert found == expected


def test_what_is_left_is_padding_of_its_own():
    windows, _, _ = make(count=2, sequence_length=60)
    (window,) = (windows[index] for index in range(len(windows)))
    rest = window["document_ids"] == window["document_ids"][-1]
    assert rest.sum() > 10
    assert set(window["input_ids"][rest].tolist()) == {EOS}
    assert set(window["labels"][rest].tolist()) == {-100}
    assert set(window["tasks"][rest].tolist()) == {0}


@pytest.mark.parametrize("qk_norm", ["none", "rms"])
def test_a_sequence_in_company_gets_the_logits_that_it_gets_alone(qk_norm):
    torch.manual_seed(0)
    model = MobileLLM(
        ModelConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=48,
            num_blocks=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            qk_norm=qk_norm,
        )
    )
    windows, _, _ = make()
    for index in range(3):
        window = windows[index]
        ids = window["document_ids"]
        mask = (ids[:, None] == ids[None, :])[None]
        together = model(window["input_ids"][None], attention_mask=mask).logits[0]
        for number in range(int(ids[-1])):
            alone = model(window["input_ids"][ids == number][None]).logits[0]
            torch.testing.assert_close(together[ids == number], alone, atol=1e-5, rtol=0)


def test_windows_are_refused():
    with pytest.raises(ValueError, match=r"sequence_length=15 is shorter than \d+ of 50 prompted "
                       r"sequences, which are never cut; use at least \d+"):  # fmt: skip
        make(sequence_length=15)
    with pytest.raises(ValueError, match="there are no prompted sequences"):
        PackedDataset(np.zeros(3), np.zeros((0, 3), int), np.zeros(0, int), 8, padding=EOS)
    with pytest.raises(IndexError, match="window 99 does not exist"):
        make()[0][99]


def test_the_length_that_the_message_names_is_enough():
    with pytest.raises(ValueError, match="use at least") as error:
        make(sequence_length=5)
    make(sequence_length=int(str(error.value).partition("at least ")[2].partition(",")[0]))
