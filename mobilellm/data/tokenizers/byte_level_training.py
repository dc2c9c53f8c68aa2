"""Training of byte-level byte-pair encoding, in the format of Hugging Face's `tokenizers`."""

import json
from collections.abc import Sequence

from mobilellm.data.tokenizers.settings import SETTINGS_FILE
from mobilellm.files import TOKENIZER_JSON
from mobilellm.units import bytes_text

END_OF_TEXT = "<|endoftext|>"


def train_byte_level(parts: Sequence[bytes], vocab_size: int) -> dict[str, bytes]:
    """Train byte-level byte-pair encoding, in which every text can be written.

    Words are split as in GPT-2, and each digit is a token of its own, as in SmolLM2. Id 0 is the
    one special token, which ends a document and begins the next; ids 1 to 256 are the bytes.

    Args:
        parts: UTF-8 text.
        vocab_size: exact number of ids.

    Returns:
        tokenizer.json and tokenizer_config.json by name; the same text gives the same bytes.

    Raises:
        ValueError: the text is empty, or too small for the vocabulary size.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((part.decode() for part in parts), trainer)
    found = tokenizer.get_vocab_size()
    if found != vocab_size:
        num_bytes = sum(map(len, parts))
        raise ValueError(
            f"vocab_size={vocab_size} is too large for the {bytes_text(num_bytes)} of text that "
            f"the tokenizer is trained on; use model.vocab_size={found} or less, or more text"
        )
    # A text begins after the end of another one, also when another program encodes it.
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 0)]
    )
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
    }
    return {
        TOKENIZER_JSON: tokenizer.to_str(pretty=True).encode(),
        SETTINGS_FILE: (json.dumps(settings, indent=2, allow_nan=False) + "\n").encode(),
    }
