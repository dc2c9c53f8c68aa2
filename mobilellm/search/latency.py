"""Predicts the latency of a shape from the measured latencies of other shapes.

Decoding one token at batch size 1 takes a fixed time, a time for each layer that runs, and the time
to read every weight. The latency is therefore modelled as

    a + b x layers + c x (weights of all blocks) + e x (weights that run again) + d x (of the head),

with coefficients of at least 0 that minimise the squared relative errors. A block that runs again
at once may still be in the cache of the processor, so that e can be less than c. If no measured
shape runs a block again, and for other sharing schemes than `immediate`, e = c. It follows that the
latency is linear in the depth and in the feed-forward width, as the other budgets are. The time of
the prompt has the same form, since all shapes of a profile read equally many tokens.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mobilellm.accounting.parameters import applications, block_costs, head_cost
from mobilellm.evaluation.device_profile import DeviceProfile
from mobilellm.models import ModelConfig

MINIMUM_SHAPES = 6
"""Measured shapes that are needed for four coefficients and an estimate of the error."""

NEGLIGIBLE = 0.01
"""If reading all weights takes less than this share of the time, widths cannot be solved for."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FittedTime:
    """A linear model of one kind of time."""

    features: Floats
    """(shapes, features)."""
    times: Floats
    """(shapes,) milliseconds."""

    @cached_property
    def coefficients(self) -> Floats:
        """Milliseconds per unit of each feature."""
        return _fit(self.features, self.times)

    @cached_property
    def left_out(self) -> Floats:
        """(shapes,) milliseconds of each shape, predicted from all others."""
        found = []
        for place in range(len(self.times)):
            others = np.arange(len(self.times)) != place
            found.append(self.features[place] @ _fit(self.features[others], self.times[others]))
        return np.array(found)

    @property
    def errors(self) -> Floats:
        """(shapes,) relative errors of `left_out`."""
        return self.left_out / self.times - 1

    @property
    def r_squared(self) -> float:
        """Share of the variance of the times that `left_out` explains."""
        variance = ((self.times - self.times.mean()) ** 2).sum()
        return float(1 - ((self.left_out - self.times) ** 2).sum() / variance)

    @property
    def error_text(self) -> str:
        """`median error 4.1 %, largest 12 %, R² 0.991 (each of 28 shapes predicted from …)`."""
        sizes = 100 * np.abs(self.errors)
        return (
            f"median error {np.median(sizes):.1f} %, largest {sizes.max():.0f} %, "
            f"R² {self.r_squared:.3f} (each of {len(sizes)} shapes predicted from the others)"
        )


@dataclass(frozen=True)
class LatencyModel:
    """Latency as a function of the shape, fitted to a device profile.

    Raises:
        ValueError: the profile has too few shapes, only one depth or width, or vocabularies of
            several sizes; or wide models take no more time than narrow ones.
    """

    profile: DeviceProfile

    def __post_init__(self) -> None:
        """Check that the profile determines the coefficients."""
        sizes = (("depths", self.depths), ("widths", self.widths))
        for name, (least, most) in sizes:
            if least == most:
                raise ValueError(
                    f"the device profile has one value of {name}, {least}; at least two are "
                    f"required: measure more with --{name}"
                )
        if len(self.profile.shapes) < MINIMUM_SHAPES:
            raise ValueError(
                f"the device profile has {len(self.profile.shapes)} shapes, and {MINIMUM_SHAPES} "
                "are required; measure more with --depths and --widths"
            )
        vocabularies = sorted({shape.model.vocab_size for shape in self.profile.shapes})
        if len(vocabularies) > 1:
            raise ValueError(
                f"the device profile has vocabularies of several sizes {vocabularies}; measure "
                "one with one --vocab-size"
            )

        decode = self.decode
        read = decode.coefficients[2] * decode.features[:, 2].max()
        if read < NEGLIGIBLE * decode.times.max():
            raise ValueError(
                "the shapes of the device profile take no more time if they have more weights; "
                "measure larger --widths, on a machine without other work"
            )

    @property
    def depths(self) -> tuple[int, int]:
        """The smallest and the largest number of layers that was measured."""
        found = [shape.model.num_layers for shape in self.profile.shapes]
        return min(found), max(found)

    @property
    def widths(self) -> tuple[int, int]:
        """The smallest and the largest width that was measured."""
        found = [shape.model.hidden_size for shape in self.profile.shapes]
        return min(found), max(found)

    @property
    def vocab_size(self) -> int:
        """Vocabulary size of all measured shapes."""
        return self.profile.shapes[0].model.vocab_size

    @property
    def head_dim(self) -> int:
        """Width of one head of the first measured shape."""
        return self.profile.shapes[0].model.head_dim or 1

    @property
    def range_text(self) -> str:
        """`2 to 16 layers and widths of 64 to 256`."""
        (shallow, deep), (narrow, wide) = self.depths, self.widths
        return f"{shallow} to {deep} layers and widths of {narrow} to {wide}"

    def check_covers(
        self, *, num_layers: int | None, hidden_size: int | None, vocab_size: int
    ) -> None:
        """Check that a shape lies in the range of the profile; None: not known yet.

        Raises:
            ValueError: it does not; the message names the range.
        """
        for name, value, option, (least, most) in (
            ("layers", num_layers, "--depths", self.depths),
            ("hidden_size", hidden_size, "--widths", self.widths),
        ):
            if value is not None and not least <= value <= most:
                raise ValueError(
                    f"{name}={value} is outside of the device profile, which was measured from "
                    f"{least} to {most}; use a value in this range, or measure more with {option}"
                )
        if vocab_size != self.vocab_size:
            raise ValueError(
                f"vocab_size={vocab_size} differs from that of the device profile, "
                f"{self.vocab_size}; measure one with --vocab-size {vocab_size}"
            )

    def predict(self, config: ModelConfig) -> float:
        """Milliseconds per generated token."""
        return float(self._features(config) @ self.decode.coefficients)

    @cached_property
    def decode(self) -> FittedTime:
        """Milliseconds per generated token."""
        shapes = self.profile.shapes
        features = np.array([self._features(shape.model) for shape in shapes])
        return FittedTime(features, np.array([shape.decode_ms_per_token for shape in shapes]))

    @cached_property
    def prefill(self) -> FittedTime | None:
        """Milliseconds for the prompt of the profile; None if it was not measured."""
        times = [shape.prefill_ms for shape in self.profile.shapes]
        known = [time for time in times if time is not None]
        return (
            FittedTime(self.decode.features, np.array(known)) if len(known) == len(times) else None
        )

    @property
    def error_text(self) -> str:
        """The error of the predicted decode latencies."""
        return self.decode.error_text

    @cached_property
    def _has_repeats(self) -> bool:
        return any(shape.model.num_layers > shape.model.num_blocks for shape in self.profile.shapes)

    def _features(self, config: ModelConfig) -> Floats:
        uses = applications(config)
        costs = [(name, cost.parameters) for _, name, cost in block_costs(config)]
        once = sum(weights for _, weights in costs)
        again = sum((uses[name] - 1) * weights for name, weights in costs)
        # Other orders run other blocks before a block runs again, so that it left the cache.
        if config.layer_sharing != "immediate":
            once, again = once + again, 0
        read = [once, again] if self._has_repeats else [once + again]
        return np.array([1.0, config.num_layers, *read, head_cost(config).parameters])


def _fit(features: Floats, times: Floats) -> Floats:
    """Coefficients of at least 0 that minimise the squared relative errors."""
    from scipy.optimize import nnls  # takes 0.3 s to import; most budgets do not need it

    scales = features.max(axis=0)
    found, _ = nnls(features / scales / times[:, None], np.ones(len(times)))
    return found / scales
