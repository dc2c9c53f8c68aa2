"""A small space of shapes, and the costs that its tests compute by hand."""

from mobilellm.search import config_for_shape
from mobilellm.search.space import Constraints, Feasibility, parse_space

SPACE = {
    "model": {
        "num_blocks": [1, 2, 4],
        "hidden_size": {"low": 16, "high": 64, "step": 8},
        "block_repeats": [1, 2],
        "layer_sharing": {
            "choices": ["immediate", "repeat_all"],
            "when": {"model.block_repeats": 2},
        },
    }
}


def build(settings):
    """A shape with heads of 16, so that half of the widths are illegal."""
    given = {name.removeprefix("model."): value for name, value in settings.items()}
    return config_for_shape(**given, head_dim=16, vocab_size=128)


def body(depth, width):
    """Parameters without the embedding: four square matrices, three of the feed-forward layer."""
    return depth * (4 * width**2 + 3 * 3 * width**2 + 2 * width) + width


def feasibility(space=SPACE, **limits):
    return Feasibility(parse_space(space), Constraints(**limits), build)
