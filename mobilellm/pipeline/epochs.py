"""The token limit of a run that is given in passes over the training data."""

from collections.abc import Callable, Sequence
from typing import Any

from mobilellm.data import DataConfig, prepare_data
from mobilellm.pipeline.token_budget import MAX_TOKENS, gives_token_limit
from mobilellm.run_settings import EPOCHS


def with_epochs(
    config: dict[str, Any], overrides: Sequence[str], data: Callable[[], DataConfig]
) -> dict[str, Any]:
    """The configuration with `max_tokens` as it follows from `epochs`.

    If the tokens are limited by another setting as well, the smaller limit counts. Without `epochs`
    the configuration is returned unchanged, and no data are read.

    Args:
        config: the resolved configuration of a run, after `with_token_limit`.
        overrides: the overrides of the command line.
        data: makes the data of the run, which are prepared if they are not yet.

    Raises:
        ValueError: the epochs are less than one step; or see `prepare_data`.
        FileNotFoundError, OSError: see `prepare_data`.
    """
    epochs = config.get(EPOCHS)
    if epochs is None:
        return config
    length = config["sequence_length"]
    per_epoch = prepare_data(data()).tokens_per_epoch(length)
    tokens = int(epochs * per_epoch)
    name = "sequence_length" if isinstance(config["tokens_per_step"], str) else "tokens_per_step"
    if tokens < config[name]:
        raise ValueError(
            f"epochs={epochs:g} of {per_epoch // length:,} windows of {length} tokens gives "
            f"{tokens:,} tokens, less than one step, {name}={config[name]:,}; give more epochs, or "
            "smaller steps"
        )
    if gives_token_limit(config, overrides):
        tokens = min(tokens, int(config[MAX_TOKENS]))
    return config | {MAX_TOKENS: tokens}
