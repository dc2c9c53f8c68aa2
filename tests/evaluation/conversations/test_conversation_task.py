"""Conversations against a naive evaluation: one turn after another, without cache and batches."""

import json

import numpy as np
import pytest
import torch
from tiny_tokenizers import make_byte_level

from mobilellm.data.conversation_windows import ConversationWindows
from mobilellm.data.conversations.chat_format import ChatFormat
from mobilellm.data.conversations.layouts import read_conversation
from mobilellm.data.conversations.tokens import tokenize_conversation
from mobilellm.data.tokenizers import open_tokenizer
from mobilellm.evaluation.conversations.answers import Protocol
from mobilellm.evaluation.conversations.asked_turns import asked_turns
from mobilellm.evaluation.conversations.measures import TurnMeasures
from mobilellm.evaluation.conversations.task import ConversationTask, evaluate_conversations
from mobilellm.evaluation.harness.results import from_plain, to_plain
from mobilellm.evaluation.language_model import LanguageModel
from mobilellm.evaluation.ratios import ratio_record
from mobilellm.evaluation.rouge import rouge_1
from mobilellm.evaluation.validation import sum_losses
from mobilellm.models import MobileLLM, ModelConfig

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n'"
    " }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def row(place, *turns, tools=()):
    messages = [{"role": role, "content": text} for role, text in turns]
    return read_conversation({"messages": messages, "tools": list(tools)}, "auto", place)


def call(name, **arguments):
    return json.dumps({"name": name, "arguments": arguments})


# So many that some answers end early and others do not.
ENDS = (2, *range(3, 300, 13))
F, G = {"name": "f"}, {"name": "g"}
ROWS = (
    row("a", ("user", "the fox"), ("parser", call("f", x=1)), ("tool", "2"),
        ("assistant", "the lazy dog"), ("user", "and"), ("parser", call("g")), tools=[F, G]),
    row("b", ("system", "quick"), ("user", "wolf"), ("assistant", "runs away again"), tools=[F]),
    row("c", ("user", "fox"), ("parser", "no call"), ("assistant", "bad"), tools=[G]),
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=300, hidden_size=16, intermediate_size=24, num_blocks=2,
        num_attention_heads=2, max_position_embeddings=512, tie_word_embeddings=False,
    )  # fmt: skip
    made = MobileLLM(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3)
    tokenizer = open_tokenizer(make_byte_level(tmp_path_factory.mktemp("t"), template=TEMPLATE))
    return LanguageModel(name="tiny", model=made, tokenizer=tokenizer, adds_bos=False)


def protocol(**changes):
    given = {"end_tokens": ENDS, "find_problem": lambda call, tools: None,
             "max_new_tokens": 12}  # fmt: skip
    return Protocol(**{**given, **changes})


def evaluate(model, rows=ROWS, trained=None, **changes):
    task = ConversationTask(name="api_calling", conversations=rows, trained_functions=trained)
    form = ChatFormat(tokenizer=model.tokenizer)
    return evaluate_conversations(model, task, form, protocol(**changes))


@torch.no_grad()
def naive_answer(model, prompt, ends=ENDS, limit=12):
    tokens = list(prompt)
    while len(tokens) < len(prompt) + limit:
        token = int(model.model(torch.tensor([tokens])).logits[0, -1].argmax())
        if token in ends:
            break
        tokens.append(token)
    return model.tokenizer.decode(tokens[len(prompt) :]).strip()


def test_answers_are_those_of_greedy_decoding_after_the_rendered_turns(model):
    result = evaluate(model)
    form = ChatFormat(tokenizer=model.tokenizer)
    expected = []
    for conversation in ROWS:
        messages = [message for message, _ in form.messages(conversation)]
        for place, (_, turn) in enumerate(form.messages(conversation)):
            if turn is not None and conversation.turns[turn].is_trained:
                text = form.render(messages[:place], conversation, begins_answer=True)
                expected.append(naive_answer(model, model.tokenizer.encode_rendered(text)))
    answers = [sample["text"] for sample in result.samples]
    assert answers == expected
    assert [sample["expected"] for sample in result.samples] == [
        turn.text for one in ROWS for turn in one.turns if turn.is_trained
    ]
    cut = [sample["is_cut"] for sample in result.samples]
    assert set(cut) == {True, False} and result.counts["cut_answers"] == sum(cut)
    replies = [s for s in result.samples if s["role"] == "assistant"]
    above, below = result.ratios["rouge_1"]
    assert sum(above) == pytest.approx(sum(rouge_1(s["expected"], s["text"]) for s in replies))
    assert below == (1, 1, 1)
    assert (result.counts["calls"], result.counts["replies"]) == (2, 3)
    assert result.counts["unreadable_calls"] == 1


def test_losses_are_those_of_the_training_masks(model):
    result = evaluate(model)
    form = ChatFormat(tokenizer=model.tokenizer)
    sequences = [one for row in ROWS for one in tokenize_conversation(row, form)]
    ends = np.cumsum([len(one.tokens) for one in sequences])
    windows = ConversationWindows(
        np.concatenate([one.tokens for one in sequences]),
        np.concatenate([one.is_trained for one in sequences]).astype(np.uint8),
        np.stack([np.append(0, ends[:-1]), ends], axis=1)[:, None], 511, packing="packed",
        padding=2,
    )  # fmt: skip
    batches = [{k: v[None] for k, v in windows[n].items()} for n in range(len(windows))]
    expected = sum_losses(model.model, batches)
    parts = [result.ratios[f"{role}_nats_per_token"] for role in ("parser", "assistant")]
    assert sum(sum(below) for _, below in parts) == expected.tokens
    assert sum(sum(above) for above, _ in parts) == pytest.approx(expected.nats, rel=1e-5)


def test_the_right_answers_have_full_marks_and_seen_functions_are_apart(model):
    turns = asked_turns(ROWS, ChatFormat(tokenizer=model.tokenizer))
    measures = TurnMeasures(len(ROWS), frozenset({"f"}))
    measures.add_answers(turns, [t.turn.text for t in turns], lambda one, tools: None)
    record = ratio_record(measures.sums.ratios())
    names = [name for name in record if not name.endswith("_interval")]
    assert {name: record[name] for name in names if name != "needless_call"} == {
        name: 1 for name in names if name != "needless_call"
    }
    assert record["needless_call"] == 0
    assert {"intent_seen", "intent_unseen", "structure_unseen", "valid_call_seen"} <= set(names)
    # A right call that its schema does not allow, a wrong argument, and a call instead of a reply.
    wrong = [call("f", x=2) if t.calls_functions else call("g") for t in turns]
    others = TurnMeasures(len(ROWS), None)
    others.add_answers(turns, wrong, lambda one, tools: "no" if one.name == "f" else None)
    assert others.sums.ratios() == {
        "intent": ((1, 0, 0), (2, 0, 0)), "structure": ((0, 0, 0), (2, 0, 0)),
        "valid_call": ((0, 0, 0), (2, 0, 0)), "needless_call": ((1, 1, 1), (1, 1, 1)),
        "rouge_1": ((0, 0, 0), (1, 1, 1)), "rouge_l": ((0, 0, 0), (1, 1, 1)),
    }  # fmt: skip


def test_results_are_the_same_in_other_batches_and_after_storing(model):
    whole = evaluate(model, trained=frozenset({"f"}))
    one_by_one = LanguageModel(**{**vars(model), "batch_tokens": 1})
    alone = evaluate(one_by_one, trained=frozenset({"f"}))
    assert [s["text"] for s in alone.samples] == [s["text"] for s in whole.samples]
    assert from_plain(json.loads(json.dumps(to_plain(whole)))) == whole


def test_turns_without_room_are_left_out_and_counted(model):
    lengths = [len(t.prompt) for t in asked_turns(ROWS, ChatFormat(tokenizer=model.tokenizer))]
    room = 512 - sorted(lengths)[-2]
    result = evaluate(model, max_new_tokens=room)
    assert result.counts["left_out"] == 1 and len(result.samples) == len(lengths) - 1
    with pytest.raises(ValueError, match="none leaves room for max_new_tokens=510 in max_position"):
        evaluate(model, max_new_tokens=510)
