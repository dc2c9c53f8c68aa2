"""Generated tokens as an answer, compared with a loop over them."""

import random

import pytest
from chat_models import chat_tokenizer

from mobilellm.data.tokenizers.answer import read_answer


@pytest.mark.parametrize("seed", range(20))
def test_an_answer_is_what_stands_before_the_first_end(seed, tmp_path):
    draw, tokenizer = random.Random(seed), chat_tokenizer(tmp_path)
    tokens = [draw.randrange(310) for _ in range(8)]  # ten are rows of a padded embedding
    ends = draw.sample(tokens, 2) if seed % 2 else [400, 401]
    own = []
    for token in tokens:
        if token in ends:
            break
        own.append(token)
    found = read_answer(tokenizer, tokens, ends)
    assert found.text == tokenizer.decode([t for t in own if t < 300]).strip()
    assert found.is_cut == (len(own) == 8)
    assert found.tokens == len(own) + (not found.is_cut)
