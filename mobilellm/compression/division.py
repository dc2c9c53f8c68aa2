"""Division of a budget among the matrices of a model, and costs of the resulting shapes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from mobilellm.compression.part_templates import PartTemplate, shape_from_parts
from mobilellm.compression.permutations import with_permutations
from mobilellm.compression.recipe import BudgetUse
from mobilellm.compression.size_budget import SizeBudget, uniform_budgets
from mobilellm.compression.spending import one_term_more, spend
from mobilellm.layers.factorized import FactorizedShape
from mobilellm.models import ModelConfig

# Tolerance, in parameters, for comparing sums of floating-point costs with a budget.
ROUNDING = 1e-3


@dataclass(frozen=True, kw_only=True)
class Division:
    """The budget of the selected matrices of a model, and shapes within it.

    Costs are in parameters. If the budget counts the bytes read per decoded token, a parameter
    costs as much as the number of times it is read.
    """

    config: ModelConfig
    names: Sequence[str]
    """Names of the selected matrices."""
    budget: SizeBudget | None
    """The budget; None if all parts have num_terms."""
    parts: Sequence[PartTemplate]
    """The parts of each shape; a single low-rank part if the shapes are searched for."""
    permutations: str
    """`none`, `absorbed`, `stored` or `all`, as in the recipe."""
    pivoted: bool = False
    """Whether low-rank parts are pivoted."""

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Number of entries of each selected matrix."""
        shapes = self.config.matrix_sizes
        return {name: shapes[name][0] * shapes[name][1] for name in self.names}

    @cached_property
    def parameter_costs(self) -> dict[str, float]:
        """Cost of one parameter of each matrix."""
        if self.budget is None:
            return dict.fromkeys(self.names, 1.0)
        return self.budget.parameter_costs(self.config, self.names)

    @cached_property
    def allowed(self) -> float:
        """Largest total cost of the selected matrices.

        Raises:
            ValueError: as `SizeBudget.allowed`.
        """
        if self.budget is None:
            return sum(self.sizes.values())
        return self.budget.allowed(self.config, self.names)

    @cached_property
    def allowed_for_parameters(self) -> float:
        """`allowed` minus the cost of stored permutations and orders."""
        if self.budget is None:
            return self.allowed
        low_rank = sum(part.right is None for part in self.parts)
        cost = 0.0
        for name in self.names:
            rows, columns = self.config.matrix_sizes[name]
            stored = rows + columns if self.permutations in ("stored", "all") else 0
            stored += rows * low_rank if self.pivoted else 0
            cost += self.parameter_costs[name] * self.budget.index_cost(stored)
        return max(self.allowed - cost, 0.0)

    def uniform(self) -> dict[str, int]:
        """Number of parameters of each matrix if all keep the same share of their entries."""
        return uniform_budgets(
            self.config, self.names, self.allowed_for_parameters, self.parameter_costs
        )

    def shape_for(self, name: str, parameters: float) -> FactorizedShape:
        """The shape of the named matrix with at most `parameters` parameters.

        Raises:
            ValueError: the factors of a part do not divide the matrix, or there are too few
                parameters for one term.
        """
        size = self.config.matrix_sizes[name]
        shape = shape_from_parts(self.parts, size, int(parameters), name, pivoted=self.pivoted)
        return with_permutations(shape, self.permutations)

    def cost(self, name: str, shape: FactorizedShape) -> float:
        """Cost of the named matrix in the given shape."""
        cost = shape.parameters if self.budget is None else self.budget.cost(shape)
        return self.parameter_costs[name] * cost

    def used(self, shapes: Mapping[str, FactorizedShape]) -> float:
        """Total cost of the selected matrices; those without a shape stay dense."""
        return sum(
            self.cost(name, shapes[name]) if name in shapes else self.parameter_costs[name] * size
            for name, size in self.sizes.items()
        )

    def spend_rest(
        self, shapes: Mapping[str, FactorizedShape], budgets: Mapping[str, float]
    ) -> dict[str, FactorizedShape]:
        """Add terms to the shapes until the rest of the budget is used.

        Args:
            shapes: shapes of the matrices that do not stay dense.
            budgets: intended number of parameters of each matrix.
        """
        if self.budget is None:
            return dict(shapes)
        shares = {name: self.parameter_costs[name] * budgets[name] for name in shapes}
        left = self.allowed - self.used(shapes)
        return spend(shapes, shares, left, self.cost, lambda _, shape: self._larger(shape))

    def _larger(self, shape: FactorizedShape) -> FactorizedShape | None:
        if len(shape.parts) == len(self.parts):
            open_parts = [i for i, part in enumerate(self.parts) if part.num_terms is None]
        else:  # The shape was found by a search, so its parts are not those of the templates.
            open_parts = [i for i, part in enumerate(shape.parts) if part.is_low_rank]
        return one_term_more(shape, open_parts[0]) if open_parts else None

    def check(self, shapes: Mapping[str, FactorizedShape]) -> None:
        """Check that the shapes do not exceed the budget.

        Raises:
            ValueError: the shapes cost more than `allowed`.
        """
        used = self.used(shapes)
        if self.budget is not None and used > self.allowed + ROUNDING:
            total = sum(self.parameter_costs[name] * size for name, size in self.sizes.items())
            raise ValueError(
                f"{self.budget} allows these matrices {self.allowed:,.0f} parameters "
                f"({self.allowed / total:.2%} of them), but the configured parts have "
                f"{used:,.0f} ({used / total:.2%}); raise the budget, remove it (set all limits to "
                "null), or give parts with larger right factors or num_terms=null"
            )

    def budget_use(self, shapes: Mapping[str, FactorizedShape]) -> BudgetUse | None:
        """The budget and the part of it that the shapes use; None if there is no budget."""
        if self.budget is None:
            return None
        return BudgetUse(str(self.budget), self.allowed, self.used(shapes))
