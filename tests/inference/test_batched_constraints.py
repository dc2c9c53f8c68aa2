"""Constrained rows of a batch against one constrained text at a time."""

import json

import pytest
import torch
from tiny_tokenizers import make_byte_level

from mobilellm.data.tokenizers import open_tokenizer
from mobilellm.inference.constrained import constrained
from mobilellm.inference.functions import calls_schema, make_functions
from mobilellm.inference.token_stream import TokenStream
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.generation import generate

ENDS = (2, 0)
FUNCTIONS = make_functions([
    {"name": "now", "parameters": {}},
    {"name": "set", "parameters": {"properties": {"x": {"enum": [1, 22]}}, "required": ["x"]}},
])  # fmt: skip


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=310, hidden_size=16, intermediate_size=24, num_blocks=2, num_attention_heads=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    made = MobileLLM(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3)
    return made


def test_rows_are_those_of_single_texts(model, tmp_path):
    tokenizer = open_tokenizer(make_byte_level(tmp_path))

    def constraints():
        schemas = [calls_schema(FUNCTIONS), None, calls_schema(FUNCTIONS[1:]), {"type": "null"}]
        return [None if one is None else constrained(tokenizer, one, end_tokens=ENDS)
                for one in schemas]  # fmt: skip

    prompts = [torch.tensor(p) for p in ([5, 6, 7], [8], [9, 10], [11, 12, 13, 14])]
    rows = generate(model, prompts, 60, eos_token_id=ENDS, constraints=constraints())
    texts = []
    for prompt, constraint, row in zip(prompts, constraints(), rows[:, -60:].tolist(), strict=True):
        alone = TokenStream(model).generate(
            prompt.tolist(), 60, end_tokens=ENDS, constraint=constraint
        )
        expected = list(alone)
        assert row[: len(expected)] == expected
        # After the end, whichever token it was, there is the first end token only.
        assert set(row[len(expected) + 1 :]) <= {ENDS[0]}
        texts.append(tokenizer.decode(expected))
    calls = [json.loads(texts[0]), json.loads(texts[2])]
    assert calls[0]["name"] in ("now", "set") and calls[1]["arguments"]["x"] in (1, 22)
    assert texts[3] == "null"


def test_one_constraint_is_needed_for_each_prompt(model):
    with pytest.raises(ValueError, match="2 constraints are given for 1 prompts; give one for"):
        generate(model, torch.tensor([[5]]), 3, constraints=[None, None])


def test_the_first_of_several_end_tokens_ends_a_row(model):
    free = generate(model, torch.tensor([[5, 6]]), 20, eos_token_id=309, stop_at_eos=False)[0, 2:]
    tokens = free.tolist()
    ends = [309, tokens[7], tokens[3]]
    first = min(tokens.index(token) for token in ends[1:])
    row = generate(model, torch.tensor([[5, 6]]), 20, eos_token_id=ends)[0, 2:].tolist()
    assert row == tokens[: first + 1] + [309] * (19 - first)
