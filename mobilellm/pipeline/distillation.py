"""What a run has to arrange for its teacher."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm.hydra_app.configuration import instantiate
from mobilellm.pipeline.compression import FOLDER

if TYPE_CHECKING:
    from mobilellm.callbacks.distillation import DistillationCallback
    from mobilellm.data import PreparedData
    from mobilellm.pipeline.plan import Run

DENSE_FOLDER = "dense"


def find_distillation(callbacks: Iterable[Any]) -> "DistillationCallback | None":
    """The distillation among the callbacks; None where there is none.

    Raises:
        ValueError: more than one.
    """
    from mobilellm.callbacks.distillation import DistillationCallback

    found = [callback for callback in callbacks if isinstance(callback, DistillationCallback)]
    if len(found) > 1:
        raise ValueError(f"distillation has {len(found)} teachers; give one, with several losses")
    return found[0] if found else None


def dense_folder(run: "Run") -> Path:
    """Where the model as it was before its first stage of compression is kept, to teach."""
    return run.folder / FOLDER / DENSE_FOLDER


def keep_dense(run: "Run", model: Any) -> None:
    """Keep the model that is about to be compressed for the first time, where it is to teach."""
    from mobilellm.checkpoint import save_model

    distillation = find_distillation(build(run))
    if distillation is not None and distillation.is_dense:
        save_model(model, dense_folder(run))


def check_teacher(run: "Run", prepared: "PreparedData") -> None:
    """Check that the teacher speaks of the run's data.

    Raises:
        ValueError: another tokenizer, or a store of other data.
    """
    distillation = find_distillation(build(run))
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
    distillation = find_distillation(build(run))
    return 0 if distillation is None else distillation.weight_bytes(run.model)


def build(run: "Run") -> list[Any]:
    """The callbacks of conf/distillation, told where the dense model is kept."""
    built = [instantiate(node) for node in run.config["distillation"].values() if node is not None]
    distillation = find_distillation(built)
    if distillation is not None:
        distillation.dense_folder = dense_folder(run)
    return built
