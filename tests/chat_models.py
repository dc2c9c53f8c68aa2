"""Untrained models with a chat template, for tests of conversations."""

import torch
from tiny_tokenizers import make_byte_level

from mobilellm.checkpoint import save_model
from mobilellm.data.tokenizers import open_tokenizer
from mobilellm.models import MobileLLM, ModelConfig

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NAMES = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}


def chat_tokenizer(folder, template=CHATML, **settings):
    """A byte-level tokenizer of 300 tokens; 0, 1 and 2 are the special ones."""
    return open_tokenizer(make_byte_level(folder, settings=NAMES | settings, template=template))


def chat_config(context=256, **changes):
    """Configuration of a model for `chat_tokenizer`."""
    return ModelConfig(
        **{"vocab_size": 300, "hidden_size": 16, "intermediate_size": 24, "num_blocks": 2,
           "num_attention_heads": 2, "bos_token_id": 1, "eos_token_id": 2,
           "max_position_embeddings": context, **changes}
    )  # fmt: skip


def random_model(config, seed=0):
    """An untrained model whose text does not repeat one token."""
    torch.manual_seed(seed)
    model = MobileLLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.5)
    return model


def save_chat_model(folder, *, seed=0, template=CHATML, **changes):
    """Write the folder of such a model, and return it."""
    tokenizer = chat_tokenizer(folder.with_name(f"{folder.name}_tokenizer"), template)
    save_model(random_model(chat_config(**changes), seed), folder, tokenizer.path)
    return folder
