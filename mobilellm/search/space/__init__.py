"""Search spaces: which points exist, which of them are legal, and which meet the constraints."""

from mobilellm.search.space.constraints import Constraints
from mobilellm.search.space.feasibility import Candidate, Feasibility, Rejection
from mobilellm.search.space.search_space import SearchSpace, parse_space

__all__ = [
    "Candidate",
    "Constraints",
    "Feasibility",
    "Rejection",
    "SearchSpace",
    "parse_space",
]
