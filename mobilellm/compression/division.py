"""A budget divided among the matrices of one model, and how much of it their shapes spend."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from mobilellm.compression.part_templates import PartTemplate, shape_from_parts
from mobilellm.compression.permutations import with_permutations
from mobilellm.compression.recipe import Spending
from mobilellm.compression.size_budget import SizeBudget, uniform_budgets
from mobilellm.compression.spending import one_term_more, spend
from mobilellm.layers.factorized import FactorizedShape
from mobilellm.models import ModelConfig

# Sums of floating-point costs are compared with a budget up to this share of a parameter.
ROUNDING = 1e-3


@dataclass(frozen=True, kw_only=True)
class Division:
    """What the chosen matrices of a model may cost together, and the shapes within that."""

    config: ModelConfig
    names: Sequence[str]
    """Of the chosen matrices."""
    budget: SizeBudget | None
    """None: the parts say all."""
    parts: Sequence[PartTemplate]
    """As the shapes are written, or low rank where they are searched for."""
    permutations: str

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Entries of each chosen matrix."""
        shapes = self.config.matrix_sizes
        return {name: shapes[name][0] * shapes[name][1] for name in self.names}

    @cached_property
    def weights(self) -> dict[str, float]:
        """What one parameter of each matrix costs."""
        if self.budget is None:
            return dict.fromkeys(self.names, 1.0)
        return self.budget.weights_of(self.config, self.names)

    @cached_property
    def allowed(self) -> float:
        """For all chosen matrices together.

        Raises:
            ValueError: as `SizeBudget.allowed`.
        """
        if self.budget is None:
            return sum(self.sizes.values())
        return self.budget.allowed(self.config, self.names)

    @cached_property
    def for_parameters(self) -> float:
        """`allowed`, without what the indices of stored permutations may take."""
        if self.budget is None or self.permutations not in ("stored", "all"):
            return self.allowed
        indices = {name: sum(self.config.matrix_sizes[name]) for name in self.names}
        costs = (self.weights[n] * self.budget.index_cost(indices[n]) for n in self.names)
        return max(self.allowed - sum(costs), 0.0)

    def uniform(self) -> dict[str, int]:
        """Parameters for each matrix: the same share of each."""
        return uniform_budgets(self.config, self.names, self.for_parameters, self.weights)

    def written(self, name: str, parameters: float) -> FactorizedShape:
        """The shape that the parts make of a matrix with at most so many parameters.

        Raises:
            ValueError: parts that do not divide the matrix, or too few parameters for one term.
        """
        size = self.config.matrix_sizes[name]
        shape = shape_from_parts(self.parts, size, int(parameters), name)
        return with_permutations(shape, self.permutations)

    def cost(self, name: str, shape: FactorizedShape) -> float:
        """What the matrix of that name costs in that shape."""
        cost = shape.parameters if self.budget is None else self.budget.cost(shape)
        return self.weights[name] * cost

    def used(self, shapes: Mapping[str, FactorizedShape]) -> float:
        """What the chosen matrices cost; those without a shape stay dense."""
        return sum(
            self.cost(name, shapes[name]) if name in shapes else self.weights[name] * size
            for name, size in self.sizes.items()
        )

    def spend_rest(
        self, shapes: Mapping[str, FactorizedShape], budgets: Mapping[str, float]
    ) -> dict[str, FactorizedShape]:
        """The shapes with as many further terms as the budget pays for.

        Args:
            shapes: of those that do not stay dense.
            budgets: parameters that each was to have.
        """
        if self.budget is None:
            return dict(shapes)
        shares = {name: self.weights[name] * budgets[name] for name in shapes}
        left = self.allowed - self.used(shapes)
        return spend(shapes, shares, left, self.cost, lambda _, shape: self._larger(shape))

    def _larger(self, shape: FactorizedShape) -> FactorizedShape | None:
        if len(shape.parts) == len(self.parts):
            open_parts = [i for i, part in enumerate(self.parts) if part.num_terms is None]
        else:  # found by a search: low rank and products
            open_parts = [i for i, part in enumerate(shape.parts) if part.is_low_rank]
        return one_term_more(shape, open_parts[0]) if open_parts else None

    def check(self, shapes: Mapping[str, FactorizedShape]) -> None:
        """Refuse shapes that cost more than allowed.

        Raises:
            ValueError: names both.
        """
        used = self.used(shapes)
        if self.budget is not None and used > self.allowed + ROUNDING:
            total = sum(self.weights[name] * size for name, size in self.sizes.items())
            raise ValueError(
                f"{self.budget} allows these matrices {self.allowed:,.0f} parameters "
                f"({self.allowed / total:.2%} of them), but the parts as written have "
                f"{used:,.0f} ({used / total:.2%}): allow that much, leave the budget out "
                "(all limits null), or give parts with larger right factors or open num_terms"
            )

    def spending(self, shapes: Mapping[str, FactorizedShape]) -> Spending | None:
        """How much of the budget the shapes use; None: there is none."""
        if self.budget is None:
            return None
        return Spending(str(self.budget), self.allowed, self.used(shapes))
