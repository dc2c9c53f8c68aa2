"""The example of the docs: Lightning's own Trainer gives what `train` gives, bit for bit."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from adamw_cosine import ADAMW_COSINE
from safetensors.torch import load_file
from small_run import read_rows

from mobilellm.training import LanguageModelModule

EXAMPLE = Path(__file__).parents[2] / "docs/examples/plain_lightning.py"
# The settings of the example, for `train`.
SETTINGS = (
    *ADAMW_COSINE,
    "model.hidden_size=16", "model.intermediate_size=32", "model.num_blocks=3",
    "model.num_key_value_heads=2", "model.head_dim=8", "model.bos_token_id=1",
    "max_tokens=2304", "validation_interval_tokens=2304", "data.held_out=0.05",
    "compression=low_rank", "compression.num_stages=3", "compression.calibration_tokens=256",
    "distillation=forward_kl", "distillation.teacher=dense", "micro_batch_size=4",
    "distillation.cross_entropy_weight=1.0",
)  # fmt: skip
TIMED = {"seconds", "tokens_per_second", "model_flops_utilization"}


class Interrupted(Exception):
    """As a kill, after a step that was not saved."""


def run_example(monkeypatch, corpus, folder):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(corpus), str(folder)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")


def curve(folder):
    """The logged values that do not depend on the speed of the machine."""
    return [
        {name: value for name, value in row.items() if name not in TIMED and value != ""}
        for row in read_rows(folder)
    ]


def assert_same_weights(folder, other):
    found, wanted = (load_file(path / "model/model.safetensors") for path in (folder, other))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.fixture(scope="module")
def example(corpus, tmp_path_factory):
    """The folder of an uninterrupted run of the example."""
    folder = tmp_path_factory.mktemp("example")
    with pytest.MonkeyPatch.context() as patch:
        run_example(patch, corpus, folder)
    return folder


def test_it_gives_the_metrics_and_weights_of_train(example, tiny_run, tmp_path):
    # Other tests prepare the same text with another share held out.
    tiny_run(*SETTINGS, f"prepared_dir={tmp_path}/prepared")
    [summary] = tmp_path.glob("outputs/*/*/summary.json")
    assert curve(example) == curve(summary.parent)
    assert_same_weights(example, summary.parent)


def test_it_resumes_from_its_last_checkpoint(example, corpus, monkeypatch, tmp_path):
    training_step = LanguageModelModule.training_step

    def interrupted(self, batch, batch_idx):
        if self.global_step == 8:
            raise Interrupted
        training_step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModelModule, "training_step", interrupted)
        with pytest.raises(Interrupted):
            run_example(patch, corpus, tmp_path)
    run_example(monkeypatch, corpus, tmp_path)
    assert curve(tmp_path) == curve(example)
    assert_same_weights(tmp_path, example)
