"""Creation of the token embedding and the output head described by a configuration."""

from torch import nn

from mobilellm.layers import DENSE
from mobilellm.models.config import ModelConfig


def make_token_table(config: ModelConfig) -> nn.Module:
    """Create the token embedding with uninitialised weights."""
    shape = config.layer_shapes.get("embedding", DENSE)
    return shape.empty_embedding((config.vocab_size, config.hidden_size))


def make_head(config: ModelConfig) -> nn.Module | None:
    """Create the output head with uninitialised weights; None if it is tied to the embedding."""
    if config.tie_word_embeddings:
        return None
    shape = config.layer_shapes.get("head", DENSE)
    return shape.empty((config.vocab_size, config.hidden_size))
