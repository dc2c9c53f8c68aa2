"""Multipliers of a model as part of its weights, for formats that have none."""

from collections.abc import Mapping

from torch import Tensor

from mobilellm.models import ModelConfig


def folded_multipliers(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The weights of a model of the same function whose multipliers are 1.

    Exact up to the rounding of one product per weight. The residual multiplier goes into the
    projections that write to the residual stream. The attention multiplier goes into the query
    projection, or into the weights of the query norm where there is one; with the weightless norm
    (`qk_norm="l2"`) there is no such weight, and the caller writes it. The output multiplier goes
    into the head, or into the final norm where the head is the embedding.

    Args:
        state: dense weights by their names in `MobileLLM`; left unchanged.
        config: of the model.
    """
    query = {"none": ".q_proj.weight", "rms": ".q_norm.weight"}.get(config.qk_norm)
    factors = {
        ".o_proj.weight": config.residual_multiplier,
        ".down_proj.weight": config.residual_multiplier,
        "norm.weight" if config.tie_word_embeddings else "head.weight": config.output_multiplier,
    }
    if query is not None:
        factors[query] = config.attention_multiplier
    return {name: _times(tensor, _factor(name, factors)) for name, tensor in state.items()}


def _factor(name: str, factors: Mapping[str, float]) -> float:
    """The factor of a weight: that of its whole name, or of the end of it after a dot."""
    ends = (f for end, f in factors.items() if end.startswith(".") and name.endswith(end))
    return factors.get(name, next(ends, 1.0))


def _times(tensor: Tensor, factor: float) -> Tensor:
    return tensor if factor == 1 else tensor * factor
