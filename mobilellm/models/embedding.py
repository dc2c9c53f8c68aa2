"""The token embedding and the output head of a model, as its configuration stores them."""

from torch import nn

from mobilellm.layers import DENSE
from mobilellm.models.config import ModelConfig


def make_token_table(config: ModelConfig) -> nn.Module:
    """The token embedding that `config` describes, with memory but without values."""
    shape = config.layer_shapes.get("embedding", DENSE)
    return shape.empty_embedding((config.vocab_size, config.hidden_size))


def make_head(config: ModelConfig) -> nn.Module | None:
    """The output head, with memory but without values; None if it is tied to the embedding."""
    if config.tie_word_embeddings:
        return None
    shape = config.layer_shapes.get("head", DENSE)
    return shape.empty((config.vocab_size, config.hidden_size))
