"""Checks that the adapter of a run fits its model and its other parts, and saves it."""

import logging

from mobilellm.callbacks.supernet import SupernetCallback
from mobilellm.formats.model_folder import is_huggingface
from mobilellm.formats.peft import write_peft
from mobilellm.models import MobileLLM
from mobilellm.pipeline.parts import named_errors
from mobilellm.pipeline.run import Run

logger = logging.getLogger(__name__)

ADAPTER = "adapter"


def check_adapter(run: Run) -> None:
    """Check the adapter of a run before weights and data are read.

    Raises:
        ValueError: there are no weights to adapt, the adapter does not fit the model, or another
            part of the run changes the model.
    """
    adapter = run.parts.adapter
    if adapter is None:
        return
    if run.config["init_from"] is None:
        raise ValueError(
            "adapter: a model with random weights has nothing to adapt; give the model with "
            "init_from=MODEL_DIR, or use adapter=none to train all weights"
        )
    others = {
        "compression": (run.parts.compression is not None, "compress the model before or after"),
        "trainer=fsdp": (run.trainer.strategy == "fsdp", "use trainer=ddp"),
        "distillation=supernet": (
            any(isinstance(callback, SupernetCallback) for callback in run.parts.callbacks),
            "train all weights of a supernet",
        ),
    }
    for name, (is_given, remedy) in others.items():
        if is_given:
            raise ValueError(
                f"adapter: {name} cannot be combined with an adapter, which leaves the weights of "
                f"the model as they are; {remedy}, or use adapter=none"
            )
    with named_errors("adapter"):
        adapter.adapter.configured(run.model)


def save_adapter(run: Run, adapted: MobileLLM) -> None:
    """Write the adapter of a finished run for PEFT, or log why PEFT cannot represent it.

    Raises:
        OSError: a file could not be written.
    """
    origin = run.config["init_from"]
    base = origin if is_huggingface(origin) and adapted.config.qk_norm != "l2" else None
    try:
        write_peft(adapted, run.folder / ADAPTER, base=base)
    except ValueError as error:
        logger.info("no %s/ for PEFT is written: %s", ADAPTER, error)
