"""The recipe rule: learning rate and tokens per step as power laws of budget and shape.

The best learning rate and the best size of a step depend on the number of training tokens. For each
optimizer, `RULES` gives both for training from random weights, fitted to the optima of a grid of
runs by scripts/recipe_rule.py (docs/recipe.md has the grid, the fit and its check).

The form follows Bi et al. 2024, DeepSeek LLM, arXiv:2401.02954, section 3.1, who fit power laws of
compute; here tokens, width and depth are separate.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

Limits = tuple[float, float]
"""Smallest and largest value."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the best learning rate and the best size of a step depend on."""

    tokens: float
    """Training tokens of the whole run."""
    width: int
    """hidden_size."""
    depth: int
    """Layers that run; a shared block counts at each use."""

    def values(self) -> dict[str, float]:
        """Return the values by name."""
        return {"tokens": self.tokens, "width": self.width, "depth": self.depth}


@dataclass(frozen=True, kw_only=True)
class RecipeRule:
    """The power laws of one optimizer."""

    reference: Setting
    """The setting to which `learning_rate` and `step` belong."""
    step: float
    """Best tokens per step at the reference."""
    step_exponent: float
    """Of tokens, in the law of tokens per step."""
    learning_rate: float
    """Best peak learning rate at the reference and at `step` tokens per step."""
    exponents: Mapping[str, float]
    """Of tokens, width, depth and tokens per step (`step`), in the law of the learning rate."""
    fitted: Mapping[str, Limits]
    """The ranges of tokens, width, depth and tokens per step (`step`) in the grid."""
    schedule: str
    """The schedule that it was fitted with, a choice of conf/schedule."""

    def best_step(self, tokens: float) -> float:
        """Return the best number of tokens per step.

        Args:
            tokens: training tokens of the run.
        """
        return self.step * (tokens / self.reference.tokens) ** self.step_exponent

    def tokens_of_steps(self, steps: float) -> float:
        """Return the training tokens of a number of steps, each of the best size for them."""
        # tokens = steps * best_step(tokens), solved for tokens.
        power = self.step_exponent
        return (steps * self.step * self.reference.tokens**-power) ** (1 / (1 - power))

    def best_rate(self, setting: Setting, tokens_per_step: float) -> float:
        """Return the best peak learning rate.

        Fewer tokens or larger steps than in the grid do not raise the rate further: the power law
        would choose rates at which training diverges, for example for steps of 32,768 tokens.

        Args:
            setting: budget and shape of the run.
            tokens_per_step: of the run, whether chosen by the rule or not.
        """
        at = setting.values() | {"step": tokens_per_step}
        reference = self.reference.values() | {"step": self.step}
        for name in ("tokens", "step"):
            low, high = self.fitted[name]
            rises = self.exponents[name] > 0
            at[name] = min(at[name], high) if rises else max(at[name], low)
        factors = ((at[name] / reference[name]) ** power for name, power in self.exponents.items())
        return self.learning_rate * math.prod(factors)

    def outside(self, setting: Setting) -> Iterator[str]:
        """Yield a phrase for each quantity that is outside the range of the grid."""
        for name, value in setting.values().items():
            low, high = self.fitted[name]
            if not low <= value <= high:
                yield f"{name} {value:,.0f} (fitted from {low:,.0f} to {high:,.0f})"


RULES: Mapping[str, RecipeRule] = {
    "muon": RecipeRule(
        reference=Setting(tokens=400_000, width=96, depth=6),
        step=273,
        step_exponent=0.601,
        learning_rate=0.0274,
        exponents={"tokens": -0.152, "width": -0.494, "depth": 0.257, "step": 0.308},
        fitted={"tokens": (1e5, 3e6), "width": (32, 208), "depth": (2, 16), "step": (128, 1024)},
        schedule="wsd",
    ),
    "adamw": RecipeRule(
        reference=Setting(tokens=400_000, width=96, depth=6),
        step=415,
        step_exponent=0.836,
        learning_rate=0.00403,
        exponents={"tokens": 0.006, "width": -1.355, "depth": 0.442, "step": 0.647},
        fitted={"tokens": (1e5, 1.6e6), "width": (32, 144), "depth": (4, 8), "step": (128, 1024)},
        schedule="cosine",
    ),
}
"""The rules by the name of the optimizer's function."""
