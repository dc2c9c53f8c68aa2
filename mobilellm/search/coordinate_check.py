"""Coordinate check: whether activations keep their sizes over width and depth as training begins.

If the settings of training fit all shapes, the activations of a wide or deep model are as large as
those of a small one, at the first step and after a few. Where they grow or shrink with width or
depth, the best learning rate of one shape is not that of another.

Sources: Yang et al. 2022, Tensor Programs V, arXiv:2203.03466, appendix D.1; Dey et al. 2025,
CompleteP, arXiv:2505.01618, figure 7.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.optim import Optimizer

from mobilellm.losses.cross_entropy import chunked_cross_entropy
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.initialization import initialize_
from mobilellm.optim.parametrization import Parametrization

QUANTITIES = ("attention", "feed_forward", "residual_stream", "logits")
"""Outputs of the attention and of the feed-forward layers (mean over all applications, before the
residual multiplier), the residual stream after the last layer, and the logits."""
WRITERS = {"attention": ".o_proj", "feed_forward": ".down_proj"}
"""The modules whose outputs are those of the layers."""

MakeOptimizer = Callable[[nn.Module], Optimizer]
Sizes = dict[str, float]
"""Root mean square of each of `QUANTITIES`."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the models of a check are trained."""

    optimizer: MakeOptimizer
    parametrization: Parametrization | None
    """That `optimizer` uses; None: `standard`."""
    initialization: Mapping[str, Any]
    """`std` and `residual_scaling` of `initialize_`."""
    steps: int
    seeds: int
    """Number of initial weights, over which sizes are averaged."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The activations of one shape at one step, averaged over the seeds."""

    parametrization: str
    axis: str
    """What was varied: `width` or `depth`."""
    width: int
    depth: int
    """Layers that run."""
    step: int
    """Optimizer steps done."""
    sizes: Sizes

    @property
    def place(self) -> int:
        """The width or the depth, whichever was varied."""
        return self.width if self.axis == "width" else self.depth


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How much a quantity differs along an axis, at one step."""

    axis: str
    quantity: str
    deviation: float
    """Largest deviation from the mean over the axis, as a share of the mean."""
    growth: float
    """Size at the largest shape as a multiple of that at the smallest."""


def measure_shape(
    config: ModelConfig, recipe: Recipe, batches: Sequence[Int[Tensor, "windows tokens"]]
) -> list[Sizes]:
    """Sizes of the activations before each step and after the last, averaged over the seeds.

    Args:
        config: of the model, without the multipliers of a parametrisation.
        recipe: how it is trained.
        batches: token ids (windows, tokens + 1); the last one is only measured on, the others are
            trained on in turn.

    Raises:
        ValueError: the parametrisation cannot scale to the shape.
    """
    runs = [_measure_seed(config, recipe, batches, seed) for seed in range(recipe.seeds)]
    return [
        {name: fmean(run[step][name] for run in runs) for name in QUANTITIES}
        for step in range(recipe.steps + 1)
    ]


def spreads(measurements: Sequence[Measurement]) -> list[Spread]:
    """The spread of each quantity along each axis after the last step.

    Args:
        measurements: of one parametrisation.
    """
    last = max(found.step for found in measurements)
    result = []
    for axis in ("width", "depth"):
        line = [m for m in measurements if (m.axis, m.step) == (axis, last)]
        line.sort(key=lambda found: found.place)
        for quantity in QUANTITIES if len(line) > 1 else ():
            sizes = [found.sizes[quantity] for found in line]
            mean = fmean(sizes)
            deviation = max(abs(size / mean - 1) for size in sizes)
            growth = sizes[-1] / sizes[0]
            result.append(Spread(axis=axis, quantity=quantity, deviation=deviation, growth=growth))
    return result


def byte_batches(
    text: bytes, *, windows: int, tokens: int, count: int, seed: int = 0
) -> list[Int[Tensor, "windows tokens"]]:
    """`count` batches of windows at random places of a text, whose tokens are its bytes.

    Raises:
        ValueError: the text is shorter than a window.
    """
    if len(text) <= tokens:
        raise ValueError(
            f"the text has {len(text)} bytes, and a window {tokens + 1}; give a longer one"
        )
    ids = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(text) - tokens, (count, windows, 1), generator=generator)
    return list(ids[starts + torch.arange(tokens + 1)])


def _measure_seed(
    config: ModelConfig, recipe: Recipe, batches: Sequence[Tensor], seed: int
) -> list[Sizes]:
    model = _make_model(config, recipe, seed)
    optimizer = recipe.optimizer(model)
    *training, measured = batches
    found = [_sizes(model, measured[:, :-1])]
    for step in range(recipe.steps):
        ids = training[(step + seed * recipe.steps) % len(training)]
        hidden = model(ids[:, :-1], logits=False).hidden
        optimizer.zero_grad()
        loss = chunked_cross_entropy(hidden, model.unembed, ids[:, 1:]) / ids[:, 1:].numel()
        loss.backward()
        optimizer.step()
        found.append(_sizes(model, measured[:, :-1]))
    return found


def _make_model(config: ModelConfig, recipe: Recipe, seed: int) -> MobileLLM:
    parametrization, scale = recipe.parametrization, None
    if parametrization is not None:
        config = parametrization.configured(config)
        scale = parametrization.initial_scale(config)
    model = MobileLLM(config)
    initialize_(model, seed=seed, scale=scale, **recipe.initialization)
    return model


@torch.no_grad()
def _sizes(model: MobileLLM, ids: Tensor) -> Sizes:
    with _recorded_outputs(model) as outputs:
        output = model(ids, capture=["hidden_states"])
    found = {name: fmean(map(_rms, values)) for name, values in outputs.items()}
    found["residual_stream"] = _rms(output.captured["hidden_states"][-1])
    return found | {"logits": _rms(output.logits)}


@contextmanager
def _recorded_outputs(model: MobileLLM) -> Iterator[dict[str, list[Tensor]]]:
    """The outputs of each kind of layer, one tensor per application, inside a `with` block."""
    outputs: dict[str, list[Tensor]] = {name: [] for name in WRITERS}
    handles = [
        module.register_forward_hook(
            lambda _module, _inputs, output, kind=kind: outputs[kind].append(output)
        )
        for name, module in model.named_modules()
        for kind, ending in WRITERS.items()
        if name.endswith(ending)
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _rms(x: Any) -> float:
    return x.float().square().mean().sqrt().item()
