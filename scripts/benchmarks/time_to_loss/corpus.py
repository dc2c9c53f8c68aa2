"""The data and the shape of a comparison, in a form that the processes of all contenders read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mobilellm.accounting import count_parameters
from mobilellm.data.batches import CorpusBatches
from mobilellm.hydra_app.configuration import compose
from mobilellm.pipeline.plan import plan_run
from mobilellm.pipeline.train import prepare
from scripts.benchmarks.peer_models import llama_shape


def write_corpus(overrides: Sequence[str], folder: Path, tokens_per_step: int) -> dict[str, Any]:
    """Prepare the data of a run, and write the windows of both splits to `folder`.

    Args:
        overrides: of `mobilellm train`: model, data and lengths.
        folder: gets `train.npy` and `validation.npy`, token ids (windows, sequence_length + 1).
        tokens_per_step: batch size with which the settings are checked, in tokens.

    Returns:
        What is the same in all trials, as plain data.

    Raises:
        ValueError: the settings are not valid, or the other projects cannot build the model.
    """
    run = plan_run(compose("train", [*overrides, f"tokens_per_step={tokens_per_step}"]))
    shape, length = llama_shape(run.model), run.config["sequence_length"]
    if run.budget.max_tokens is None:
        raise ValueError("max_tokens is null; a comparison needs a budget in tokens")
    if run.data.document_mask:
        raise ValueError(
            "data.document_mask=true: the other projects do not isolate documents; use "
            "data.document_mask=false"
        )
    prepared = prepare(run)
    batches = CorpusBatches(
        prepared=prepared,
        sequence_length=length,
        micro_batch_size=1,
        seed=0,
        validation_tokens=run.config["validation_tokens"],
    )
    train = [batches.train_windows[index] for index in range(len(batches.train_windows))]
    validation = [{name: one[0] for name, one in each.items()} for each in batches.validation()]
    for split, windows in (("train", train), ("validation", validation)):
        rows = [np.append(each["input_ids"], each["labels"][-1]) for each in windows]
        np.save(folder / f"{split}.npy", np.stack(rows).astype(np.uint16))
    return {
        "overrides": list(overrides),
        "prepared_dir": str(Path(run.config["prepared_dir"]).resolve()),
        "shape": shape,
        "parameters": count_parameters(run.model).stored,
        "sequence_length": length,
        "max_tokens": int(run.budget.max_tokens),
        "validation_windows": len(validation),
        "hashes": dict(prepared.hashes),
        "warmup_fraction": 0.05,
        "log_interval_steps": 10,
    }
