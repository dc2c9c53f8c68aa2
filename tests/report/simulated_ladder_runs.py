"""The run folders of a ladder whose losses follow a known law."""

from pathlib import Path

import numpy as np
from simulated_sweep import model, summary, write_run

SIZES = {5e4: (0, 1, 2), 1e5: (0, 1, 2), 3e5: (0, 1)}
DEPTHS = (1, 2, 4, 6, 8)
HORIZONS = (0.25, 0.5, 1.0)


def loss_of(depth, width, tokens):
    return 1.2 + 0.45 * depth**-0.8 + 9 * width**-0.55 + 60 * tokens**-0.32


def shape(body, depth):
    """A shape of about this many body parameters: 12 matrices of its width squared per block."""
    width = max(8, round(np.sqrt(body / 12 / depth) / 2) * 2)
    ffn = max(4, round((body / depth - 4 * width**2) / (3 * width)))
    return model(depth, width, ffn, width // 2, width // 2, head_dim=2, vocab_size=1024)


def write_ladder(folder, sizes=None, *, depths=DEPTHS, horizons=HORIZONS, noise=0.004, ratio=20,
                 held_out=True, loss=loss_of, **changes):  # fmt: skip
    """Write one folder per run; the held-out size has one seed, three depths and half the ratio."""
    random = np.random.default_rng(0)
    plan = [(body, depth, seeds, ratio) for body, seeds in (sizes or SIZES).items()
            for depth in depths]  # fmt: skip
    if held_out:
        plan += [(1e6, depth, (0,), ratio / 2) for depth in (2, 4, 8)]
    for body, depth, seeds, tokens_each in plan:
        config = shape(body, depth)
        for seed in seeds:
            of_run = random.normal(0, noise)
            for share in horizons:
                tokens = int(tokens_each * body * share)
                final = loss(depth, config.hidden_size, tokens) * np.exp(
                    of_run + random.normal(0, noise / 3)
                )
                facts = summary(
                    config, seed=seed, loss=float(final), tokens=tokens, experiment="ladder",
                    tokens_per_step=512, steps=tokens // 512, run=f"{body:g}-{depth}-{seed}",
                    **({"extended_from": "x", "rewarmed": False} if share > horizons[0] else {}),
                    **changes,
                )  # fmt: skip
                name = f"size-{body:g}_depth-{depth}_seed-{seed}_max_tokens-{tokens}"
                write_run(Path(folder) / name, facts, rows=20)
    return Path(folder)
