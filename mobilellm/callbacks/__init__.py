"""Lightning callbacks: they decide when something is done and contain no arithmetic.

Each class is found by its file's name: `LossGuardCallback` in `loss_guard.py`.
"""

from typing import TYPE_CHECKING, Any

from mobilellm.public_names import import_public_class

if TYPE_CHECKING:
    from mobilellm.callbacks.adapter import AdapterCallback as AdapterCallback
    from mobilellm.callbacks.checkpoint import CheckpointCallback as CheckpointCallback
    from mobilellm.callbacks.compression import CompressionCallback as CompressionCallback
    from mobilellm.callbacks.distillation import DistillationCallback as DistillationCallback
    from mobilellm.callbacks.evaluation import EvaluationCallback as EvaluationCallback
    from mobilellm.callbacks.graceful_stop import GracefulStopCallback as GracefulStopCallback
    from mobilellm.callbacks.initial_loss import InitialLossCallback as InitialLossCallback
    from mobilellm.callbacks.label_accuracy import LabelAccuracyCallback as LabelAccuracyCallback
    from mobilellm.callbacks.loss_guard import LossGuardCallback as LossGuardCallback
    from mobilellm.callbacks.progress import ProgressCallback as ProgressCallback
    from mobilellm.callbacks.pruning import PruningCallback as PruningCallback
    from mobilellm.callbacks.run_summary import RunSummaryCallback as RunSummaryCallback
    from mobilellm.callbacks.step_by_step import StepByStepCallback as StepByStepCallback
    from mobilellm.callbacks.supernet import SupernetCallback as SupernetCallback
    from mobilellm.callbacks.throughput import ThroughputCallback as ThroughputCallback


def __getattr__(name: str) -> Any:
    """Import a callback when it is first used: most of them import Lightning."""
    if not name.endswith("Callback"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_public_class(__name__, name, suffix="Callback")
