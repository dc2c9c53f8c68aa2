"""Results of compressing a saved model, for compression.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from mobilellm.accounting.parameters import ParameterCounts
from mobilellm.compression.plan import Plan
from mobilellm.compression.recipe import BudgetUse
from mobilellm.compression.refinement import RefinedLoss


@dataclass(frozen=True, kw_only=True)
class ModelResults:
    """Measurements of one model."""

    model: str
    """Its name in the report, such as `dense` or `compressed`."""
    parameters: ParameterCounts
    disk_bytes: int
    """Size of its tensors in the file."""
    loss: float
    """Validation loss in nats per token."""
    latency: Mapping[str, float | None] = field(default_factory=dict)
    """Time and peak memory, as `evaluation.latency.compare_latency` names them; empty if they were
    not measured."""

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON, with the latency beside the other fields."""
        own = asdict(self)
        return own | own.pop("latency")


@dataclass(frozen=True, kw_only=True)
class CompressionReport:
    """Results of one compression; each field is a key of compression.json."""

    recipe: str
    budget: BudgetUse | None
    """Use of the size budget; None if the recipe has no such budget."""
    plan: Plan
    relative_errors: Mapping[str, float]
    """Relative error of each compressed matrix on the method's own metric."""
    refined: Mapping[str, RefinedLoss]
    """Loss of each reconstructed block and of the self-distillation on held-out calibration text,
    before and after."""
    models: tuple[ModelResults, ...]
    """The given model, the compressed model and, if there is one, the low-rank twin."""
    validation_tokens: int
    sequence_length: int
    """Tokens per window of calibration and validation."""
    hashes: Mapping[str, str | None]
    """Hashes of the data and the tokenizer."""
    source: str
    """Absolute path of the folder of the given model."""
    command: str
    """The command that made the model and this report."""

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {
            "recipe": self.recipe,
            "budget": None if self.budget is None else asdict(self.budget),
            "plan": self.plan.to_dict(),
            "relative_errors": self.relative_errors,
            "refined": {name: asdict(loss) for name, loss in self.refined.items()},
            "models": [model.to_dict() for model in self.models],
            "validation_tokens": self.validation_tokens,
            "sequence_length": self.sequence_length,
            "hashes": self.hashes,
            "source": self.source,
            "command": self.command,
        }
