"""Selection of the matrices of a model by a pattern of their names."""

import re
from fnmatch import fnmatchcase

from mobilellm.models.config import ModelConfig


def matching_matrices(
    config: ModelConfig, pattern: str, *, setting: str, both_ends: str
) -> tuple[str, ...]:
    """Names of the matrices that match a pattern, in the order of the model.

    Args:
        config: of the model.
        pattern: shell-style wildcards for the keys of `config.matrix_sizes`, e.g.
            `blocks.*.feed_forward.*`, `blocks.[13].*.up_proj` or `embedding`.
        setting: that the pattern is part of, for the message.
        both_ends: what happens to a tied table if `embedding` is selected, for the message.

    Raises:
        ValueError: the pattern matches nothing; a tied head has no matrix of its own.
    """
    names = tuple(name for name in config.matrix_sizes if fnmatchcase(name, pattern))
    if names:
        return names
    if fnmatchcase("head", pattern) and config.tie_word_embeddings:
        raise ValueError(
            f"{setting}={pattern!r} selects the output head, which is tied to the embedding; "
            f"select embedding instead: {both_ends}"
        )
    kinds = dict.fromkeys(re.sub(r"\d+", "*", name) for name in config.matrix_sizes)
    raise ValueError(
        f"{setting}={pattern!r} matches no matrix of the model; its matrices are "
        f"{', '.join(kinds)}, with blocks from 0 to {config.num_blocks - 1}"
    )
