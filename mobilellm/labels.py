"""The label of tokens that are not counted in a loss."""

IGNORE_INDEX = -100
"""Label of tokens that losses ignore: the default `ignore_index` of torch's cross entropy."""
