"""Search over architectures."""

from mobilellm.search.budget import config_for_budget

__all__ = ["config_for_budget"]
