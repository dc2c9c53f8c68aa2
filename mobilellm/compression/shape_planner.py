"""Planning the shapes of factorised matrices within a divided budget."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.algorithms.shape_search import ShapeSearch, search_shape
from mobilellm.compression.algorithms.sums import SumFit
from mobilellm.compression.apply import dense_weight
from mobilellm.compression.division import Division
from mobilellm.compression.layer_fit import LayerFit
from mobilellm.compression.permutations import with_permutations
from mobilellm.compression.plan import LayerPlan, LayerwisePlan
from mobilellm.compression.progress import log_progress
from mobilellm.compression.recipe import Batch
from mobilellm.compression.selection import by_depth
from mobilellm.layers.factorized import FactorizedShape
from mobilellm.models import MobileLLM


@dataclass(frozen=True, kw_only=True)
class ShapePlanner:
    """Chooses the shape of each matrix of a model, given its number of parameters.

    The metrics are measured block by block and not kept, since those of all matrices of a large
    model take more memory than the model itself.
    """

    model: MobileLLM
    """The dense model."""
    division: Division
    layer_fit: LayerFit
    """How the layers will be fitted, which determines the metric of their errors."""
    search: ShapeSearch | None
    """The candidates for each matrix; None: the parts of the division."""

    def plan(
        self,
        budgets: Mapping[str, int],
        calibration: Sequence[Batch],
    ) -> LayerwisePlan:
        """Plan a shape for each matrix within its budget, and spend the rest on more terms.

        A matrix whose budget is at least its size stays dense.

        Args:
            budgets: number of parameters of each matrix.
            calibration: batches of `input_ids`.

        Raises:
            ValueError: the shapes exceed the budget, or there are too few calibration tokens.
        """

        def measured(names: Iterable[str]) -> Iterable[tuple[str, Metric]]:
            names = by_depth(self.model.config, names)
            groups = self.layer_fit.metrics(self.model, calibration, names)
            return (item for group in groups for item in group.items())

        errors: dict[str, float] = {}
        if self.search is None:
            shapes = self.configured(budgets)
        else:
            names = self._smaller(budgets)
            found: dict[str, FactorizedShape] = {}
            for name, metric in log_progress(measured(names), "shapes found", len(names)):
                fit = search_shape(
                    self._weight(name), budgets[name], metric, self.search,
                    pivoted=self.division.pivoted,
                )  # fmt: skip
                found[name] = with_permutations(fit.shape, self.division.permutations)
                errors[name] = fit.error
            shapes = self.division.spend_rest({name: found[name] for name in names}, budgets)
            errors = {n: e for n, e in errors.items() if shapes[n].parts == found[n].parts}
        self.division.check(shapes)
        rest = [name for name in shapes if name not in errors]
        for name, metric in log_progress(measured(rest), "errors of the planned shapes", len(rest)):
            fit = SumFit(self._weight(name), shapes[name], metric)
            errors[name] = (fit if self.search is None else fit.improve()).error
        sizes = self.model.config.matrix_sizes
        return LayerwisePlan(
            layers=tuple(
                LayerPlan(name=name, size=sizes[name], shape=shape, expected_error=errors[name])
                for name, shape in shapes.items()
            )
        )

    def configured(self, budgets: Mapping[str, int]) -> dict[str, FactorizedShape]:
        """The shapes with the parts of the division, after the rest of the budget is spent.

        Raises:
            ValueError: a part does not divide a matrix, or there are too few parameters.
        """
        is_fixed = all(part.num_terms is not None for part in self.division.parts)
        names = list(self.division.names) if is_fixed else self._smaller(budgets)
        shapes = {name: self.division.shape_for(name, budgets[name]) for name in names}
        return self.division.spend_rest(shapes, budgets)

    def _smaller(self, budgets: Mapping[str, int]) -> list[str]:
        """Names of the matrices that do not stay dense."""
        sizes = self.division.sizes
        return [name for name in self.division.names if budgets[name] < sizes[name]]

    def _weight(self, name: str):
        return dense_weight(self.model, name)
