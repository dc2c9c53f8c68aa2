"""A ladder whose losses follow a known law, with noise of shapes and of seeds."""

import numpy as np

from mobilellm.search.ladder_runs import LadderRuns

TRUE = {"L0": 1.2, "a": 0.45, "alpha": 0.8, "b": 9.0, "beta": 0.55, "c": 60.0, "gamma": 0.32}
DEPTHS = (1, 2, 4, 6, 8)
SIZES = {5e4: 3, 1e5: 3, 3e5: 2}
HORIZONS = (0.25, 0.5, 1.0)


def true_loss(depth, width, tokens):
    return (
        TRUE["L0"]
        + TRUE["a"] * depth ** -TRUE["alpha"]
        + TRUE["b"] * width ** -TRUE["beta"]
        + TRUE["c"] * tokens ** -TRUE["gamma"]
    )


def width_of(body, depth):
    """Twelve matrices of width squared in each block."""
    return np.sqrt(body / 12 / depth)


def ladder(seed=0, *, shape_noise=0.0, seed_noise=0.0, sizes=SIZES, depths=DEPTHS,
           horizons=HORIZONS, ratio=20):  # fmt: skip
    """Horizons of a seed share most of its noise."""
    random, rows = np.random.default_rng(seed), []
    for body, seeds in sizes.items():
        for depth in depths:
            width = width_of(body, depth)
            of_shape = random.normal(0, shape_noise)
            for one in range(seeds):
                of_seed = of_shape + random.normal(0, seed_noise)
                for share in horizons:
                    tokens = ratio * body * share
                    noise = of_seed + random.normal(0, seed_noise / 3)
                    loss = true_loss(depth, width, tokens) * np.exp(noise)
                    rows.append((depth, width, body * (1 + depth / 1000), tokens, one, loss))
    depth, width, body, tokens, seeds, loss = np.array(rows).T
    return LadderRuns(depth, width, body, tokens, seeds.astype(int), loss)
