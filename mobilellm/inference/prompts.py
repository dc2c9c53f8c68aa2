"""The tokens of a prompt, begun as the model's own protocol begins texts."""

from collections.abc import Sequence

from mobilellm.data.tokenizers import Message, Tokenizer
from mobilellm.models import ModelConfig


def tokens_of_text(config: ModelConfig, tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a text that the model continues.

    The begin-of-text token comes first, unless the settings of the tokenizer say that it adds none.
    It is never put before a text that begins with it. A text without tokens is the begin of a new
    one, and always has it.

    Args:
        config: of the model, with the tokens of its tokenizer.
        tokenizer: of the model.
        text: may be empty.

    Raises:
        ValueError: the text cannot be encoded as UTF-8.
    """
    tokens = tokenizer.encode(checked_text(text))
    begin = [config.bos_token_id]
    if tokens and (tokenizer.adds_bos is False or tokens[:1] == begin):
        return tokens
    return begin + tokens


def tokens_of_chat(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """The tokens of a conversation up to the begin of the assistant's next message.

    Raises:
        ValueError: the tokenizer has no chat template, or the template refuses the messages.
    """
    for message in messages:
        checked_text(message["content"])
    return tokenizer.encode_rendered(tokenizer.apply_chat_template(messages))


def checked_text(prompt: str) -> str:
    """Return a text that can be encoded as UTF-8.

    Raises:
        ValueError: it cannot, since it was read from bytes that are not UTF-8.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the prompt is not UTF-8 text ({error.object[error.start : error.end]!r} at "
            f"character {error.start}); convert it, e.g. with iconv"
        ) from None
    return prompt
