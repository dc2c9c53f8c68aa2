"""Validation: nats per token and bits per byte, however the windows are batched."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_run import LENGTH, Tokens, make_data, make_model

from mobilellm.evaluation.validation import ValidationResult, sum_losses
from mobilellm.models.attention_mask import attention_mask_of, document_attention_mask


def naive(model, tokens, windows):
    """One window at a time, spread evenly over the split, all logits, Python sums."""
    nats = text_bytes = 0.0
    everything = (len(tokens) - 1) // LENGTH
    for index in (math.floor(everything * n / windows) for n in range(windows)):
        part = torch.from_numpy(tokens[index * LENGTH : index * LENGTH + LENGTH + 1].astype(int))
        logits = model(part[None, :-1]).logits[0].double()
        nats += F.cross_entropy(logits, part[1:], reduction="sum").item()
        text_bytes += sum(int(token) % 5 for token in part[1:])
    return nats / (windows * LENGTH), nats / math.log(2) / text_bytes


@pytest.mark.parametrize("size", [1, 3, 8, 100])
@pytest.mark.parametrize("limit", [None, LENGTH, 100, 10**9])
def test_against_one_window_at_a_time(size, limit):
    model = make_model()
    data = make_data(size, validation_tokens=limit)
    everything = (600 - 1) // LENGTH
    windows = everything if limit is None else min(everything, limit // LENGTH)
    result = sum_losses(model, data.validation_batches(), token_bytes=data.token_bytes)
    loss, bits = naive(model, Tokens().tokens("validation"), windows)
    assert result.tokens == windows * LENGTH
    assert result.loss == pytest.approx(loss, rel=1e-6)
    assert result.bits_per_byte == pytest.approx(bits, rel=1e-6)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_share_the_windows_in_as_many_batches(world_size, monkeypatch):
    model, data = make_model(), make_data(5)
    alone = sum_losses(model, data.validation_batches())
    counts, sums = [], np.zeros(2)
    for rank in range(world_size):
        monkeypatch.setattr(data, "_rank_and_world_size", lambda at=(rank, world_size): at)
        batches = list(data.validation_batches())
        counts.append(len(batches))
        part = sum_losses(model, batches)
        sums += (part.nats, part.tokens)
    assert len(set(counts)) == 1
    assert sums[1] == alone.tokens
    assert sums[0] == pytest.approx(alone.nats, rel=1e-7)


def test_bytes_unknown():
    result = sum_losses(make_model(), make_data(4).validation_batches())
    assert result.bits_per_byte is None
    assert ValidationResult(nats=8.0, tokens=4, text_bytes=0).loss == 2.0
    assert ValidationResult(nats=math.log(2) * 8, tokens=4, text_bytes=2).bits_per_byte == 4.0


def test_the_mode_of_the_model_is_kept():
    for training in (True, False):
        model = make_model().train(training)
        sum_losses(model, make_data(4).validation_batches())
        assert model.training is training


def test_document_mask():
    ids = torch.tensor([[0, 0, 1, 1, 2]])
    expected = [
        [1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]
    ]  # fmt: skip
    assert document_attention_mask(ids)[0].int().tolist() == expected
    assert attention_mask_of({"input_ids": ids}) is None


def test_masked_documents_are_scored_as_if_alone():
    model = make_model()
    ids = torch.randint(3, 30, (1, 10))
    documents = torch.tensor([[0] * 6 + [1] * 4])
    whole = model(ids, attention_mask=document_attention_mask(documents)).logits
    torch.testing.assert_close(whole[:, :6], model(ids[:, :6]).logits)
    torch.testing.assert_close(whole[:, 6:], model(ids[:, 6:]).logits, rtol=1e-4, atol=1e-5)


def test_nothing_to_score_is_refused():
    empty = {"input_ids": torch.zeros(1, 4, dtype=torch.long), "labels": torch.full((1, 4), -100)}
    with pytest.raises(ValueError, match="no token of the validation data has a label; give"):
        sum_losses(make_model(), [empty])
    with pytest.raises(ValueError, match="validation_tokens=3 must be at least one window, seq"):
        make_data(validation_tokens=3)
