"""Search over architectures."""

from mobilellm.search.budget import config_for_budget
from mobilellm.search.proportions import config_for_shape

__all__ = ["config_for_budget", "config_for_shape"]
