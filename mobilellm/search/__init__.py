"""Search over architectures."""

from mobilellm.search.budget import config_for_budget
from mobilellm.search.proportions import config_for_shape
from mobilellm.search.supernet_space import SupernetSpace

__all__ = ["SupernetSpace", "config_for_budget", "config_for_shape"]
