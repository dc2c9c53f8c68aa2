"""Runs as processes, to be killed, and what two runs have to have in common."""

import csv
import time

import torch
from command_process import CommandProcess

from mobilellm.checkpoint import load_model, read_tensors
from mobilellm.training.atomic_save import read_checkpoint

TIMED = ("seconds", "tokens_per_second", "model_flops_utilization")


def start(*arguments, **environment):
    return CommandProcess("train", *arguments, environment=environment)


def the_folder(experiment):
    found = [path.parent for path in experiment.glob("*/summary.json")]
    return found[0] if found else None


def wait_for(process, is_there):
    """Wait until the run has come so far."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if is_there():
            return
        time.sleep(0.005)
    raise AssertionError(f"the run did not come so far: exit code {process.poll()}")


def rows(folder):
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k not in TIMED} for row in csv.DictReader(file)]


def assert_same(first, second):
    assert rows(first) == rows(second)
    mine, others = (read_tensors(f / "model/model.safetensors") for f in (first, second))
    assert mine.keys() == others.keys()
    assert all(torch.equal(mine[name], others[name]) for name in mine)
    assert load_model(first / "model").config == load_model(second / "model").config
    states = [read_checkpoint(f / "checkpoints/last.ckpt") for f in (first, second)]
    moments = [state["optimizer_states"][0]["state"] for state in states]
    assert moments[0].keys() == moments[1].keys()
    for number, values in moments[0].items():
        for name, value in values.items():
            # Moments of 8 bits know no comparison.
            assert torch.equal(value.dequantize(), moments[1][number][name].dequantize())


def has_step(experiment, step):
    folder = the_folder(experiment)
    metrics = None if folder is None else folder / "metrics.csv"
    return (
        bool(metrics)
        and metrics.exists()
        and len(metrics.read_text(encoding="utf-8").splitlines()) > step + 1
    )
