import pytest
import torch

from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.generation import generate

SCHEMES = ("immediate", "repeat_all", "reverse", "sandwich", "last_first")


def make_model(**changes):
    torch.manual_seed(0)
    sizes = dict(
        vocab_size=40, hidden_size=24, intermediate_size=40, num_blocks=3, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    model = MobileLLM(ModelConfig(**(sizes | changes)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5 + (parameter.dim() == 1))
    return model


def ids(*shape, seed=1):
    return torch.randint(3, 40, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def naive_greedy(model, prompt, max_new_tokens, eos):
    """No cache, one row: the whole text again for each token."""
    text = prompt.tolist()
    for _ in range(max_new_tokens):
        if eos in text[len(prompt) :]:
            text.append(eos)
        else:
            text.append(model(torch.tensor([text])).logits[0, -1].argmax().item())
    return text


def find_model_that_ends(prompts, max_new_tokens):
    """Name as end of text a token that some, but not all, rows write early."""
    model = make_model()
    texts = [naive_greedy(model, prompt, max_new_tokens, None)[len(prompt) :] for prompt in prompts]
    for token in texts[0]:
        ended = [token in text[:-2] for text in texts]
        if any(ended) and not all(ended):
            return make_model(eos_token_id=token)
    raise AssertionError("no such token; take another seed")


@pytest.mark.parametrize("share_kv", ["own", "first"])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.usefixtures("uneven_schemes")
def test_greedy_text_equals_the_naive_loop(scheme, share_kv):
    model = make_model(layer_sharing=scheme, block_repeats=2, share_kv=share_kv, qk_norm="l2")
    prompts = ids(3, 5)
    given = generate(model, prompts, 20)
    assert given.tolist() == [naive_greedy(model, row, 20, 2) for row in prompts]


@pytest.mark.parametrize("changes", [{"tie_word_embeddings": False}, {"feed_forward": "relu"}])
def test_greedy_text_of_one_row(changes):
    model, prompt = make_model(**changes), ids(1, 4)
    assert generate(model, prompt, 30)[0].tolist() == naive_greedy(model, prompt[0], 30, 2)


def test_greedy_text_equals_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    from mobilellm.formats.huggingface import export_huggingface

    model, prompts = make_model(block_repeats=2), ids(2, 6)
    export_huggingface(model, tmp_path / "llama")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
    wanted = theirs.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=25, do_sample=False,
        pad_token_id=model.config.eos_token_id,
    )  # fmt: skip
    given = generate(model, prompts, 25)
    assert given[:, : wanted.shape[1]].tolist() == wanted.tolist()
    # Theirs ends with the last row.
    assert given[:, wanted.shape[1] :].eq(model.config.eos_token_id).all()


def test_unequal_prompts_give_what_each_gives_alone():
    prompts = [ids(length, seed=length) for length in (1, 7, 3, 12)]
    model = find_model_that_ends(prompts, 15)
    eos = model.config.eos_token_id
    given = generate(model, prompts, 15)
    assert given.shape == (4, 27)
    for prompt, row in zip(prompts, given, strict=True):
        padding = 12 - len(prompt)
        assert row[:padding].eq(eos).all()
        assert row[padding:].tolist() == naive_greedy(model, prompt, 15, eos)


def test_a_row_that_ended_is_filled_and_all_ended_stops_early():
    prompts = list(ids(4, 5))
    model = find_model_that_ends(prompts, 20)
    eos = model.config.eos_token_id
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    for prompt in prompts:
        calls.clear()
        text = generate(model, prompt.unsqueeze(0), 20)[0]
        num_steps = len(calls)
        assert text.tolist() == naive_greedy(model, prompt, 20, eos)
        new = text[5:].tolist()
        if eos in new:
            assert new[new.index(eos) :] == [eos] * (20 - new.index(eos))
            assert num_steps <= new.index(eos) + 1
    unstopped = generate(model, torch.stack(prompts), 20, stop_at_eos=False)
    for row, prompt in zip(unstopped, prompts, strict=True):
        assert row.tolist() == naive_greedy(model, prompt, 20, None)


def test_ended_rows_leave_the_batch_and_change_no_text():
    model, prompts = make_model(), [ids(3 + n % 4, seed=n) for n in range(12)]
    texts = [naive_greedy(model, prompt, 20, None)[len(prompt) :] for prompt in prompts]
    ends = sorted({text[2 + n % 14] for n, text in enumerate(texts)})
    last = [min((t.index(e) for e in ends if e in t), default=20) for t in texts]
    assert len(set(last)) > 3, "take another seed"
    sizes = []
    model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    rows = generate(model, prompts, 20, eos_token_id=ends)
    for prompt, row, text, end in zip(prompts, rows, texts, last, strict=True):
        filled = [*text[: end + 1], *[ends[0]] * (19 - end)][:20]
        assert row[6 - len(prompt) :].tolist() == [*prompt.tolist(), *filled]
    # The first pass reads the prompts; before each further one, rows may leave.
    left = [sum(end > step for end in last) for step in range(len(sizes) - 1)]
    assert all(size < 2 * n for size, n in zip(sizes[1:], left, strict=True))
    assert sizes[-1] < 12
    sizes.clear()
    generate(model, prompts, 20, temperature=1.0, seed=1, eos_token_id=ends)
    assert set(sizes) == {12}, "the random numbers of a row would be others"


def probabilities(model, prompt, **settings):
    """Shares of each next token over many draws."""
    rows = prompt.expand(4000, -1)
    drawn = generate(model, rows, 1, **settings)[:, -1]
    return torch.bincount(drawn, minlength=40) / 4000


def test_sampling_follows_the_distribution():
    model, prompt = make_model(), ids(1, 5)
    with torch.no_grad():
        logits = model(prompt).logits[0, -1] / 2.5
    whole = logits.softmax(0)
    torch.testing.assert_close(
        probabilities(model, prompt, temperature=2.5, seed=0), whole, atol=0.03, rtol=0
    )
    best = logits.topk(3).indices
    wanted = torch.zeros(40).index_copy(0, best, logits[best].softmax(0))
    given = probabilities(model, prompt, temperature=2.5, top_k=3, seed=0)
    torch.testing.assert_close(given, wanted, atol=0.03, rtol=0)
    # The smallest set of likeliest tokens that reaches the share.
    share, order, kept = 0.0, whole.argsort(descending=True).tolist(), []
    while share < 0.6:
        kept.append(order.pop(0))
        share += whole[kept[-1]].item()
    wanted = torch.zeros(40).index_copy(0, torch.tensor(kept), whole[kept] / share)
    given = probabilities(model, prompt, temperature=2.5, top_p=0.6, seed=0)
    torch.testing.assert_close(given, wanted, atol=0.03, rtol=0)
    assert set(given.nonzero().flatten().tolist()) <= set(kept)


def test_the_smallest_top_p_and_top_k_are_greedy():
    model, prompts = make_model(), ids(2, 5)
    greedy = generate(model, prompts, 10)
    assert torch.equal(generate(model, prompts, 10, temperature=5.0, top_k=1), greedy)
    assert torch.equal(generate(model, prompts, 10, temperature=5.0, top_p=1e-6), greedy)


def test_a_seed_repeats_the_text_and_leaves_the_global_generator_alone():
    model, prompts = make_model(), ids(2, 5)
    before = torch.get_rng_state()
    first = generate(model, prompts, 12, temperature=2.0, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(generate(model, prompts, 12, temperature=2.0, seed=0), first)
    assert not torch.equal(generate(model, prompts, 12, temperature=2.0, seed=1), first)


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        (ids(1, 60), {}, "prompt of 60 tokens and max_new_tokens=5 together exceed max_pos"),
        (ids(3), {}, r"input_ids has shape \(3,\); give at least one token per row"),
        (ids(2, 0), {}, r"input_ids has shape \(2, 0\)"),
        ([], {}, "input_ids is an empty list; give at least one prompt"),
        ([ids(2), ids(0)], {}, r"prompt 1 has shape \(0,\); give 1-D tensors of at least one"),
        (ids(1, 3), {"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
        (ids(1, 3), {"temperature": -1.0}, r"temperature=-1.0 must be 0 \(greedy\) or above"),
        (ids(1, 3), {"temperature": 1.0, "top_k": 0}, "top_k=0 must be at least 1; leave it out"),
        (ids(1, 3), {"temperature": 1.0, "top_p": 0.0}, "top_p=0.0 must be above 0 and at most 1"),
        (ids(1, 3), {"top_k": 5}, "top_k=5 has no effect on greedy decoding; set a temperature"),
        (ids(1, 3), {"top_p": 0.5}, "top_p=0.5 has no effect on greedy decoding"),
        (ids(1, 3), {"seed": 0}, "seed=0 has no effect on greedy decoding; set a temperature"),
        (ids(1, 3), {"temperature": 1.0, "seed": -1}, r"seed=-1 must lie between 0 and 2"),
    ],
)
def test_wrong_settings_are_refused(prompt, settings, message):
    with pytest.raises(ValueError, match=message):
        generate(make_model(), prompt, **({"max_new_tokens": 5} | settings))
