"""Adds a saved adapter, of a run or of PEFT, into the weights of its model."""

from pathlib import Path

from mobilellm.adapters.adapter import Adapter
from mobilellm.adapters.merging import merge_adapters
from mobilellm.formats.peft import read_peft, read_peft_settings
from mobilellm.models import MobileLLM


def import_adapter(folder: str | Path, model: MobileLLM) -> MobileLLM:
    """The model with a saved adapter, as one without adapters.

    Args:
        folder: of the adapter, with `adapter_config.json` and `adapter_model.safetensors`.
        model: the model that the adapter was trained on; it is used up. Matrices of it that are not
            dense keep their form, and their adapter beside them.

    Raises:
        FileNotFoundError: a file of the adapter does not exist.
        ValueError: the adapter is damaged, of a kind that this project lacks, or does not fit the
            model.
    """
    settings, names = read_peft_settings(folder), read_peft(folder, model.config)
    adapter = Adapter(
        rank=settings.rank,
        alpha=settings.alpha,
        targets=tuple(names),
        rslora=settings.rslora,
        dora=settings.dora,
        initial=str(folder),
    )
    return merge_adapters(adapter.adapt(model.eval(), seed=0))
