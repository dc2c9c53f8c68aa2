"""Energy per token, by a rule of thumb."""

from mobilellm.accounting.parameters import count_parameters
from mobilellm.models.config import ModelConfig

JOULES_PER_PARAMETER = 0.1e-9
"""Source: MobileLLM, arXiv:2402.14905, section 1, after Han et al. 2016 and Malladi et al. 2012."""


def joules_per_token(config: ModelConfig) -> float:
    """Joules for one decoded token: 0.1 J per billion executed parameters.

    The rule knows neither the device nor the bits per weight, so it gives an order of magnitude.
    The paper's own statement about the battery of a phone is twice what the rule gives.
    """
    return JOULES_PER_PARAMETER * count_parameters(config).executed
