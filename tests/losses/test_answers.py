"""Losses on pairs of answers against a loop over pairs, with autograd through all logits."""

import pytest
import torch
from pairs_of_answers import pair_windows, random_pairs

from mobilellm.labels import ANSWER_LABELS, IGNORE_INDEX
from mobilellm.losses import chunked
from mobilellm.losses.answers import count_pairs, pair_loss, pair_mask, reference_sums

VOCAB, WIDTH, LENGTH = 23, 6, 20


def batch_of(windows, indices):
    items = [windows[index] for index in indices]
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def naive_sums(logits, batch):
    """Log probabilities of the answers of each pair, as pairs of scalars, window by window."""
    logs = logits.log_softmax(-1)
    pairs = []
    for row in range(len(logits)):
        labels, documents = batch[ANSWER_LABELS][row].tolist(), batch["document_ids"][row].tolist()
        sums = {}
        for place, (label, document) in enumerate(zip(labels, documents, strict=True)):
            if label != IGNORE_INDEX:
                sums[document] = sums.get(document, 0) + logs[row, place, label]
        pairs += [(sums[n], sums[n + 1]) for n in sorted(sums) if n % 2 == 0]
    return pairs


@pytest.fixture
def problem():
    torch.manual_seed(1)
    windows = pair_windows(5, 30, VOCAB, LENGTH)
    batch = batch_of(windows, range(len(windows)))
    hidden = torch.randn(len(windows), LENGTH, WIDTH, requires_grad=True)
    head = torch.nn.Linear(WIDTH, VOCAB, bias=False)
    return batch, hidden, head


def loss_of(chosen, rejected):
    return (rejected - chosen + 0.3).square() + 0.1 * chosen


def test_value_and_gradient_are_those_of_the_loop(problem, monkeypatch):
    batch, hidden, head = problem
    monkeypatch.setitem(chunked.LOSS_CHUNK_LOGITS, "cpu", 7 * VOCAB)
    pairs = naive_sums(head(hidden), batch)
    expected = sum(loss_of(*pair) for pair in pairs)
    gradients = torch.autograd.grad(expected, [hidden, head.weight])
    found = pair_loss(hidden, head, batch, loss_of)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    (3 * found).backward()
    torch.testing.assert_close(hidden.grad, 3 * gradients[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.weight.grad, 3 * gradients[1], rtol=1e-4, atol=1e-4)
    assert count_pairs(batch) == len(pairs)


def test_the_sums_of_a_reference_are_those_of_the_loop(problem, monkeypatch):
    batch, hidden, head = problem
    monkeypatch.setitem(chunked.LOSS_CHUNK_LOGITS, "cpu", 7 * VOCAB)
    logits = head(hidden).flatten(0, 1)
    found = reference_sums(lambda place: logits[place], batch)
    expected = torch.tensor(naive_sums(head(hidden).detach(), batch))
    torch.testing.assert_close(found[pair_mask(batch)], expected, rtol=1e-5, atol=1e-5)
    assert (found[~pair_mask(batch)] == 0).all()


def test_a_window_may_be_full_of_the_shortest_pairs():
    windows = pair_windows(0, 1, VOCAB, LENGTH)
    item = windows[0]
    item["document_ids"] = torch.arange(LENGTH)
    item[ANSWER_LABELS] = torch.full((LENGTH,), 4)
    batch = {name: value[None] for name, value in item.items()}
    assert count_pairs(batch) == LENGTH // 2
    del batch[ANSWER_LABELS]
    assert count_pairs(batch) == 0, "data without preferences"


def test_every_pair_is_in_one_window_with_the_same_tokens():
    """Whatever the packing, a pair has the same tokens and the same labels."""
    tokens, marks, starts = random_pairs(3, 25, VOCAB)
    expected = set()
    ends = [*starts[1:].tolist(), len(tokens)]
    for start, end, mark in zip(starts.tolist(), ends, [1, 2] * 25, strict=True):
        labels = [t if m else IGNORE_INDEX for t, m in zip(tokens[start + 1 : end].tolist(),
                  marks[start + 1 : end].tolist(), strict=True)]  # fmt: skip
        expected.add((mark, *tokens[start : end - 1].tolist(), *labels))
    for packing in ("packed", "single"):
        found, windows = set(), pair_windows(3, 25, VOCAB, LENGTH, packing)
        for item in map(windows.__getitem__, range(len(windows))):
            for number in range(int(item["document_ids"].max()) + 1):
                place = item["document_ids"] == number
                answer = item[ANSWER_LABELS][place].tolist()
                if set(answer) == {IGNORE_INDEX}:
                    continue  # padding
                found.add((number % 2 + 1, *item["input_ids"][place].tolist(), *answer))
                better = item["labels"][place].tolist()
                assert better == ([IGNORE_INDEX] * len(answer) if number % 2 else answer)
        assert found == expected
