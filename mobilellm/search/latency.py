"""Predicts the decode latency of a shape from the measured latencies of other shapes.

Decoding one token at batch size 1 takes a fixed time, a time for each layer that runs, and the time
to read every weight. The latency is therefore modelled as

    a + b x layers + c x (weights of all layers that run) + d x (weights of the head),

with coefficients of at least 0 that minimise the squared relative errors. It follows that the
latency is linear in the depth and in the feed-forward width, as the other budgets are.
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

        features, times = self._measurements
        if self.coefficients[2] * features[:, 2].max() < NEGLIGIBLE * times.max():
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
        return float(_features(config) @ self.coefficients)

    @cached_property
    def coefficients(self) -> Floats:
        """Milliseconds: in all, per layer, per weight of a layer that runs, per weight of head."""
        return _fit(*self._measurements)

    @cached_property
    def errors(self) -> Floats:
        """Relative error of each measured shape, predicted from all others."""
        features, times = self._measurements
        found = []
        for place in range(len(times)):
            others = np.arange(len(times)) != place
            fitted = _fit(features[others], times[others])
            found.append(features[place] @ fitted / times[place] - 1)
        return np.array(found)

    @property
    def error_text(self) -> str:
        """`median error 4.1 %, largest 12 % (cross-validated over 28 shapes)`."""
        sizes = 100 * np.abs(self.errors)
        return (
            f"median error {np.median(sizes):.1f} %, largest {sizes.max():.0f} % (each of "
            f"{len(sizes)} shapes predicted from the others)"
        )

    @property
    def _measurements(self) -> tuple[Floats, Floats]:
        """(shapes, 4) features, and (shapes) milliseconds."""
        shapes = self.profile.shapes
        features = np.array([_features(shape.model) for shape in shapes])
        return features, np.array([shape.decode_ms_per_token for shape in shapes])


def _features(config: ModelConfig) -> Floats:
    uses = applications(config)
    run = sum(uses[name] * cost.parameters for _, name, cost in block_costs(config))
    return np.array([1.0, config.num_layers, run, head_cost(config).parameters])


def _fit(features: Floats, times: Floats) -> Floats:
    """Coefficients of at least 0 that minimise the squared relative errors."""
    from scipy.optimize import nnls  # takes 0.3 s to import; most budgets do not need it

    scales = features.max(axis=0)
    found, _ = nnls(features / scales / times[:, None], np.ones(len(times)))
    return found / scales
