"""A tokenizer of bytes with the interface that evaluation needs, and naive scores of tokens."""

from collections.abc import Sequence

import numpy as np
import torch

from mobilellm.evaluation.language_model import LanguageModel
from mobilellm.models import MobileLLM, ModelConfig

BOS, EOS = 1, 2


class ByteTokenizer:
    """Token 3 + b for the byte b; the pair `ab` is a token of its own (259)."""

    vocab_size, bos_id, eos_id, adds_eos = 260, BOS, EOS, None

    def encode(self, text: str) -> list[int]:
        return [259 if part == "\0" else 3 + byte for part in self._parts(text)
                for byte in (part.encode() if part != "\0" else b"\0")]  # fmt: skip

    def _parts(self, text: str) -> list[str]:
        return list(text.replace("ab", "\0"))

    def decode(self, tokens: Sequence[int]) -> str:
        parts = [b"ab" if t == 259 else bytes([t - 3]) for t in tokens if t > 2]
        return b"".join(parts).decode(errors="replace")

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def byte_counts(self, num_ids: int):
        counts = np.zeros(num_ids, dtype=np.int32)
        counts[3:259] = 1
        counts[259] = 2
        return counts


def make_model(adds_bos: bool = False, context: int = 64, seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    config = ModelConfig(
        vocab_size=260, hidden_size=32, intermediate_size=48, num_blocks=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=context,
    )  # fmt: skip
    model = MobileLLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return LanguageModel(
        name="bytes", model=model, tokenizer=ByteTokenizer(), adds_bos=adds_bos, batch_tokens=500
    )


def nats_of(model: LanguageModel, tokens: Sequence[int], predicted: int) -> float:
    """Nats of the last `predicted` of the tokens, which are one row."""
    with torch.no_grad():
        logs = model.model(torch.tensor([list(tokens)[:-1]])).logits[0].double().log_softmax(-1)
    places = range(len(tokens) - predicted, len(tokens))
    return -sum(float(logs[place - 1, tokens[place]]) for place in places)
