"""Fitting factorised layers to a dense model, block by block in the model's order."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mobilellm.compression.algorithms.metric import Metric, target_weight
from mobilellm.compression.algorithms.permutation import PermutationSearch
from mobilellm.compression.algorithms.sums import SumFit
from mobilellm.compression.apply import dense_weight, frozen_view, with_layers
from mobilellm.compression.calibration import TABLES, Moments, gather_moments, metrics_of
from mobilellm.compression.permutations import permuted_fit
from mobilellm.compression.progress import log_progress
from mobilellm.compression.recipe import Batch
from mobilellm.compression.residual_stream import PairedStreams
from mobilellm.compression.selection import block_of, groups_by_input
from mobilellm.compression.token_weights import TokenWeights
from mobilellm.layers.factorized import FactorizedLinear, FactorizedShape
from mobilellm.models import MobileLLM

FITS = ("weights", "outputs", "propagated", "reconstructed")


@dataclass(frozen=True, kw_only=True)
class LayerFit:
    """How factorised layers are fitted, as in `Factorization`."""

    fit: str
    permutation_search: PermutationSearch

    @property
    def is_propagated(self) -> bool:
        """Whether inputs are those in the model that is compressed so far."""
        return self.fit in ("propagated", "reconstructed")

    def metrics(
        self, model: MobileLLM, calibration: Sequence[Batch], names: Sequence[str]
    ) -> Iterator[dict[str, Metric]]:
        """Yield the error metrics of the named matrices in the dense model, input by input.

        Only the second moment of one input is in memory unless the caller keeps them.

        Raises:
            ValueError: there are too few calibration tokens.
        """
        if self.fit == "weights":
            yield dict.fromkeys(names, Metric())
            return
        model = frozen_view(model)
        streams = PairedStreams(calibration, model)
        weights = TokenWeights(model, calibration)
        for group in groups_by_input(model.config, names):
            run = streams.at(block_of(group[0]), model)
            moments = gather_moments(model, calibration, group, run=run)
            yield metrics_of(moments, weights)

    def layers(
        self,
        dense: MobileLLM,
        shapes: Mapping[str, FactorizedShape],
        calibration: Sequence[Batch],
        *,
        quietly: bool = False,
    ) -> tuple[dict[str, FactorizedLinear], dict[str, float]]:
        """Fit layers of the given shapes to the matrices of a model.

        Args:
            dense: the model; with absorbed permutations, the permuted one.
            shapes: by the name of the matrix.
            calibration: batches of `input_ids` and `labels`.
            quietly: whether no progress is shown.

        Returns:
            The layers and their relative errors, by name.

        Raises:
            ValueError: there are too few calibration tokens.
        """
        dense = working = frozen_view(dense)
        fitted: dict[str, FactorizedLinear] = {}
        errors: dict[str, float] = {}
        streams = PairedStreams(calibration, dense)
        weights = TokenWeights(dense, calibration)
        groups = groups_by_input(dense.config, list(shapes))
        for group in groups if quietly else log_progress(groups, "groups of layers fitted"):
            moments: dict[str, Moments] = {}
            if self.fit == "outputs":
                run = streams.at(block_of(group[0]), dense)
                moments = gather_moments(dense, calibration, group, run=run)
            elif self.is_propagated:
                run = streams.at(block_of(group[0]), working, dense)
                moments = gather_moments(working, calibration, group, teacher=dense, run=run)
            metrics = metrics_of(moments, weights)
            done: dict[str, FactorizedLinear] = {}
            for name in group:
                metric = metrics.get(name, Metric())
                cross = moments[name].cross if name in moments else None
                goal = dense_weight(dense, name).double()
                if name not in TABLES:
                    goal = target_weight(goal, metric, cross)
                dtype = dense_weight(dense, name).dtype
                layer = self._layer(goal, shapes[name], metric, dtype)
                done[name] = layer
                errors[name] = metric.relative_error(goal, layer.materialize().detach())
            fitted |= done
            if self.is_propagated:
                working = with_layers(working, done, copy=False).requires_grad_(False)
        return fitted, errors

    def _layer(
        self, goal: Tensor, shape: FactorizedShape, metric: Metric, dtype
    ) -> FactorizedLinear:
        if shape.row_permutation or shape.column_permutation:
            return permuted_fit(goal, shape, metric, self.permutation_search, dtype)
        return SumFit(goal, shape, metric).improve().layer(dtype)
