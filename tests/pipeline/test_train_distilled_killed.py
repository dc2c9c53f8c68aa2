"""A run with a teacher, killed at random steps, goes on bit for bit: online and from a store."""

import random

import pytest
import torch
from killed_runs import assert_same, has_step, start, the_folder, wait_for

from mobilellm.checkpoint import save_model
from mobilellm.hydra_app.configuration import compose
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.pipeline.prepare_logits import prepare_logits

STEPS = 30
pytestmark = pytest.mark.slow


@pytest.fixture
def teacher(tmp_path, corpus_tokenizer):
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=512, hidden_size=16, intermediate_size=24, num_blocks=2,
                         num_attention_heads=2, max_position_embeddings=64)  # fmt: skip
    save_model(MobileLLM(config), tmp_path / "teacher", corpus_tokenizer)
    return tmp_path / "teacher"


@pytest.mark.parametrize("kind", ["online", "hidden_states", "store", "dense"])
def test_killed_and_continued(kind, tiny_overrides, low_rank_stages, teacher, tmp_path):
    folder, choice, more = teacher, "forward_kl", []
    if kind == "store":
        shared = [
            o for o in tiny_overrides if o.startswith(("data", "prepared_dir", "sequence_length"))
        ]
        folder = tmp_path / "store"
        prepare_logits(compose("prepare_logits", [*shared, "k=8", f"out={folder}"]), teacher)
    elif kind == "hidden_states":
        choice = kind
    elif kind == "dense":
        folder, more = "dense", [*low_rank_stages, "+compression.first_start=0.1"]
    overrides = [
        *tiny_overrides, *more, f"max_tokens={STEPS * 128}", "log_interval_steps=1",
        "callbacks.checkpoint.every_steps=4", "micro_batch_size=2", f"distillation={choice}",
        f"distillation.teacher={folder}",
    ]  # fmt: skip
    assert start(*overrides, "experiment_name=alone").wait(timeout=240) == 0
    again = [*overrides, "experiment_name=killed", "resume=true"]
    for step in sorted(random.sample(range(2, STEPS - 3), 2)):
        process = start(*again)
        wait_for(process, lambda step=step: has_step(tmp_path / "outputs/killed", step))
        process.kill()
        process.wait()
    assert start(*again).wait(timeout=240) == 0
    assert_same(the_folder(tmp_path / "outputs/killed"), the_folder(tmp_path / "outputs/alone"))
