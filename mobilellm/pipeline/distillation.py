"""What a run has to arrange for its teacher."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.hydra_app.configuration import instantiate
from mobilellm.pipeline.compression import FOLDER

if TYPE_CHECKING:
    from mobilellm.callbacks.distillation import DistillationCallback
    from mobilellm.data import PreparedData
    from mobilellm.pipeline.plan import Run

DENSE_FOLDER = "dense"


def make_distillation(config: Mapping[str, Any]) -> "DistillationCallback | None":
    """The callback with a teacher that the group distillation of a run describes; None without.

    Args:
        config: the resolved configuration of the run.
    """
    from mobilellm.callbacks.distillation import DistillationCallback

    made = make_callback(config)
    return made if isinstance(made, DistillationCallback) else None


def make_callback(config: Mapping[str, Any]) -> Any:
    """The callback that the group distillation of a run describes; None without."""
    return instantiate({"distillation": config["distillation"] or None})["distillation"]


def dense_folder(run: "Run") -> Path:
    """Where the model as it was before its first stage of compression is kept, to teach."""
    return run.folder / FOLDER / DENSE_FOLDER


def keep_dense(run: "Run", model: Any) -> None:
    """Keep the model that is about to be compressed for the first time, where it is to teach."""
    from mobilellm.checkpoint import save_model

    distillation = make_distillation(run.config)
    if distillation is not None and distillation.is_dense:
        save_model(model, dense_folder(run))


def check_teacher(run: "Run", prepared: "PreparedData") -> None:
    """Check that the teacher speaks of the run's data.

    Raises:
        ValueError: another tokenizer, or a store of other data.
    """
    distillation = make_distillation(run.config)
    if distillation is None:
        return
    try:
        distillation.check_data(
            prepared,
            vocab_size=run.model.vocab_size,
            sequence_length=run.config["sequence_length"],
            document_mask=run.data.document_mask,
        )
    except ValueError as error:
        raise ValueError(f"distillation: {error}") from error


def teacher_bytes(run: "Run") -> int:
    """Bytes of the teacher's weights, for the forecast of memory; 0 without one."""
    distillation = make_distillation(run.config)
    return 0 if distillation is None else distillation.weight_bytes(run.model)


def build(run: "Run") -> list[Any]:
    """The callback of conf/distillation, if any, told where the dense model is kept."""
    from mobilellm.callbacks.distillation import DistillationCallback

    made = make_callback(run.config)
    if isinstance(made, DistillationCallback):
        made.dense_folder = dense_folder(run)
    return [] if made is None else [made]
