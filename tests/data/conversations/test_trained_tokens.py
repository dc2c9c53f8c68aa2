"""Which tokens of a conversation are trained, for every layout and kinds of chat templates."""

import json

import pytest
from tiny_tokenizers import make_byte_level, make_tokenizer

from mobilellm.data.conversations.chat_format import ChatFormat
from mobilellm.data.conversations.layouts import read_conversation
from mobilellm.data.conversations.tokens import tokenize_conversation
from mobilellm.data.tokenizers import open_tokenizer

BODY = "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
ASSISTANT = "{% if m['role'] == 'assistant' %}"
TEMPLATES = {
    "chatml": f"{{% for m in messages %}}{BODY}{{% endfor %}}{PROMPT}",
    # An answer begins without a header, and ends with the end of text.
    "llama": "{% for m in messages %}" + ASSISTANT + "{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% endfor %}",
    # The header is written, but never as a prompt, and an empty conversation is refused.
    "no_prompt": "{{ messages[0]['role'][:0] }}{% for m in messages %}{{ m['role'] + ':\\n'"
    " + m['content'] + eos_token + '\\n' }}{% endfor %}",
    # Marks that leave out the end of the turn.
    "marks": "{% for m in messages %}{{ '<|im_start|>' + m['role'] }}" + ASSISTANT
    + "{% generation %}{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}"
    "{{ '<|im_end|>' }}{% endfor %}",
    # Only the last message has a place for reasoning, as in Qwen3: prefixes differ from the whole.
    "last_differs": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}" + ASSISTANT
    + "{% if loop.last %}{{ '<think>\\n' }}{% endif %}{% endif %}"
    "{{ m['content'] + '<|im_end|>\\n' }}{% endfor %}" + PROMPT,
}  # fmt: skip
CALL = {"name": "wolf", "arguments": {"size": "big"}}
SAID = ["the fox", "jumps over", "it ran", "away again"]
ROWS = {
    "messages": {"messages": [
        {"role": "system", "content": "the lazy dog"}, {"role": "user", "content": SAID[0]},
        {"role": "assistant", "content": None,
         "tool_calls": [{"function": {**CALL, "arguments": json.dumps(CALL["arguments"])}}]},
        {"role": "tool", "content": SAID[2]}, {"role": "assistant", "content": SAID[3]},
        {"role": "user", "content": "bad"}]},
    "parser": {"messages": [
        {"role": "user", "content": SAID[0]}, {"role": "parser", "content": json.dumps(CALL)},
        {"role": "tool", "content": SAID[2]}, {"role": "assistant", "content": SAID[3]}]},
    "sharegpt": {"conversations": [
        {"from": "human", "value": SAID[0]}, {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "observation", "value": SAID[2]}, {"from": "gpt", "value": SAID[3]}],
        "tools": json.dumps([{"name": "wolf"}])},
    "alpaca": {"instruction": SAID[0], "input": "red", "output": SAID[1]},
    "prompt_completion": {"prompt": SAID[0], "completion": SAID[1]},
    "answers first": {"messages": [{"role": "assistant", "content": SAID[1]},
                                   {"role": "user", "content": SAID[0]},
                                   {"role": "assistant", "content": SAID[3]}]},
}  # fmt: skip


def _form(folder, template, **options):
    path = make_byte_level(folder, template=template)
    return ChatFormat(tokenizer=open_tokenizer(path), **options)


def _runs(sequence, tokenizer):
    """Texts of the maximal runs of trained tokens, a naive way to see what is trained."""
    runs, last = [], False
    for token, trained in zip(sequence.tokens.tolist(), sequence.is_trained.tolist(), strict=True):
        if trained:
            if not last:
                runs.append([])
            runs[-1].append(token)
        last = trained
    return [tokenizer._own.decode(run, skip_special_tokens=False) for run in runs]


def _expected(row):
    """What the assistant and the parser say, found in the row without any template."""
    conversation = read_conversation(row, "auto", "row")
    return [t.text for t in conversation.turns if t.role in ("assistant", "parser")]


@pytest.mark.parametrize("template", TEMPLATES)
def test_exactly_the_words_of_assistant_and_parser_and_their_ends_are_trained(template, tmp_path):
    form = _form(tmp_path, TEMPLATES[template])
    for name, row in ROWS.items():
        sequences = tokenize_conversation(read_conversation(row, "auto", name), form)
        assert len(sequences) == (1 if template != "last_differs" or len(_expected(row)) == 1
                                  else len(_expected(row)))  # fmt: skip
        runs = [text for one in sequences for text in _runs(one, form.tokenizer)]
        header = "assistant:\n" if template == "no_prompt" else ""
        found = [run.removeprefix(header) for run in runs]
        assert [run.lstrip(" ").removeprefix("<think>\n") for run in found] == [
            f"{text}<|im_end|>" for text in _expected(row)
        ], name


def test_the_trained_tokens_continue_those_of_the_prompt(tmp_path):
    form = _form(tmp_path, TEMPLATES["chatml"])
    conversation = read_conversation(ROWS["sharegpt"], "auto", "row")
    (sequence,) = tokenize_conversation(conversation, form)
    messages = [message for message, _ in form.messages(conversation)]
    for begin, turn in zip(sequence.begins, sequence.turns, strict=True):
        # One more message than turns: the list of functions.
        prompt = form.render(messages[: turn + 1], conversation, begins_answer=True)
        assert form.tokenizer.encode_rendered(prompt) == sequence.tokens[:begin].tolist()


def test_a_parser_with_a_header_of_its_own_is_not_trained_on_the_header(tmp_path):
    form = _form(tmp_path, TEMPLATES["chatml"], parser_role="parser")
    (sequence,) = tokenize_conversation(read_conversation(ROWS["parser"], "auto", "row"), form)
    assert _runs(sequence, form.tokenizer)[0] == json.dumps(CALL) + "<|im_end|>"


def test_sentencepiece_tokens_have_the_same_turns(tmp_path):
    path = make_tokenizer(tmp_path, control_symbols=["<|im_start|>", "<|im_end|>"], vocab_size=70)
    (path.parent / "chat_template.jinja").write_text(TEMPLATES["chatml"], encoding="utf-8")
    form = ChatFormat(tokenizer=open_tokenizer(path))
    row = {"prompt": "the fox", "completion": "the dog"}
    (sequence,) = tokenize_conversation(read_conversation(row, "auto", "row"), form)
    trained = sequence.tokens[sequence.is_trained].tolist()
    assert form.tokenizer.decode(trained) == "the dog" and trained[-1] == (
        form.tokenizer.find("<|im_end|>")
    )


def test_a_template_without_an_end_of_turn_is_refused(tmp_path):
    form = _form(tmp_path, "{% for m in messages %}{{ m['content'] + '\\n' }}{% endfor %}")
    with pytest.raises(ValueError, match=r"does not end the message .* with a special token"):
        tokenize_conversation(read_conversation(ROWS["alpaca"], "auto", "row 1"), form)


def test_a_conversation_without_trained_turns_has_no_tokens(tmp_path):
    row = {"messages": [{"role": "user", "content": "the fox"}]}
    form = _form(tmp_path, TEMPLATES["chatml"])
    assert tokenize_conversation(read_conversation(row, "auto", "row"), form) == []


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"text": "a"}, "not those of a known layout"),
        ({"messages": [{"role": "king", "content": "a"}]}, "role 'king'"),
        ({"messages": []}, "without turns"),
        ({"messages": [{"role": "user"}]}, "neither content nor value"),
        ({"instruction": "a", "output": 3}, "holds int in column 'output'"),
        ({"prompt": "a", "completion": "b", "tools": "["}, "not JSON"),
    ],
)
def test_rows_that_are_no_conversations_are_refused(row, match):
    with pytest.raises(ValueError, match=match):
        read_conversation(row, "auto", "line 1")
