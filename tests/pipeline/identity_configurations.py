"""Configurations whose identities are compared."""

import copy

from adamw_cosine import ADAMW_COSINE

from mobilellm.hydra_app.configuration import compose

SMALL = {
    "model": {"num_blocks": 4},
    "data": {"train": "a.txt", "dir": "x", "workers": 2},
    "trainer": {"devices": 1, "precision": "32-true", "strategy": "auto"},
    "logger": {},
    "output_dir": "outputs",
    "seed": 0,
}


def changed(path, value, config=None):
    config = copy.deepcopy(SMALL if config is None else config)
    *parents, key = path.split(".")
    node = config
    for parent in parents:
        node = node.setdefault(parent, {})
    node[key] = value
    return config


def composed(*overrides):
    """The configuration of a run with numbers: nothing is left to the recipe rule."""
    from omegaconf import OmegaConf

    kept = [*ADAMW_COSINE, "tokens_per_step=4096", "data=text", "data.train=a"]
    return OmegaConf.to_container(compose("train", [*kept, *overrides]), resolve=True)
