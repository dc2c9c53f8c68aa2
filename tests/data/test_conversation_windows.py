"""Windows of conversations: whole turns, and the same labels for every packing."""

import numpy as np
import pytest
import torch

from mobilellm.data.conversation_windows import ConversationWindows, keep_whole_turns


def _stream(seed, count=40):
    """Conversations of random turns: tokens, trained, starts of conversations and of turns."""
    generator = np.random.default_rng(seed)
    trained, conversations, turns = [], [], []
    for _ in range(count):
        conversations.append(len(trained))
        for _ in range(generator.integers(1, 5)):
            turns.append(len(trained))
            trained += [0] * int(generator.integers(1, 6)) + [1] * int(generator.integers(1, 8))
    tokens = generator.integers(3, 60, len(trained))
    return tokens, np.array(trained), np.array(conversations), np.array(turns)


@pytest.mark.parametrize("shortens", [True, False])
@pytest.mark.parametrize("length", [5, 12, 30, 100])
def test_the_turns_that_fit_are_kept(length, shortens):
    tokens, _, conversations, turns = _stream(length)
    kept = keep_whole_turns(conversations, turns, len(tokens), length, shortens=shortens)
    bounds, lost = [], 0
    for start, end in zip(conversations, [*conversations[1:], len(tokens)], strict=True):
        ends = [t for t in [*turns[1:], len(tokens)] if start < t <= end]
        fitting = [t for t in ends if t - start - 1 <= length]
        if not shortens and len(fitting) < len(ends):
            fitting = []
        lost += len(ends) - len(fitting)
        if fitting:
            bounds.append([start, fitting[-1]])
    assert kept.bounds[:, 0].tolist() == bounds
    assert (kept.lost_turns, kept.dropped) == (lost, len(conversations) - len(bounds))


def test_packing_changes_no_loss():
    from mobilellm.labels import IGNORE_INDEX
    from mobilellm.models import MobileLLM, ModelConfig

    torch.manual_seed(0)
    model = MobileLLM(ModelConfig(vocab_size=64, hidden_size=16, intermediate_size=24,
                                  num_blocks=2, num_attention_heads=2)).double()  # fmt: skip
    tokens, trained, conversations, turns = _stream(1)
    bounds = keep_whole_turns(conversations, turns, len(tokens), 48).bounds
    sums = {}
    for packing in ("packed", "single"):
        windows = ConversationWindows(tokens, trained, bounds, 48, packing=packing, padding=2)
        total, count = 0.0, 0
        for index in range(len(windows)):
            item = {name: value[None] for name, value in windows[index].items()}
            documents = item.get("document_ids")
            mask = None if documents is None else documents[:, :, None] == documents[:, None, :]
            logits = model(item["input_ids"], attention_mask=mask).logits
            labels = item["labels"]
            total += torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
            ).item()
            count += int((labels != IGNORE_INDEX).sum())
        sums[packing] = (total, count, len(windows))
    assert sums["packed"][0] == pytest.approx(sums["single"][0], rel=1e-10)
    assert sums["packed"][1] == sums["single"][1]
    assert sums["packed"][2] < sums["single"][2]
