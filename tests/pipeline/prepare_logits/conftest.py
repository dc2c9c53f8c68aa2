"""A small teacher and the data it was trained on."""

from pathlib import Path

import pytest
import torch
from logit_making import SEQUENCE

from mobilellm.checkpoint import save_model
from mobilellm.data import PreparedData, prepare_data
from mobilellm.distillation.teachers.teacher import ModelTeacher
from mobilellm.hydra_app.configuration import compose, instantiate
from mobilellm.models import MobileLLM


@pytest.fixture(scope="session")
def data_options(corpus, tmp_path_factory) -> list[str]:
    """Of a part of the corpus, in a folder of its own."""
    folder = tmp_path_factory.mktemp("logit-data")
    return ["data=text", f"data.train={corpus}", "data.held_out=0.2", "data.max_megabytes=0.1",
            f"prepared_dir={folder}"]  # fmt: skip


@pytest.fixture(scope="session")
def prepared(data_options) -> PreparedData:
    """What a teacher was trained on, with a tokenizer of its own."""
    cfg = compose("prepare_data", ["model=debug", *data_options])
    return prepare_data(instantiate(cfg.data), progress=False)


@pytest.fixture
def model(prepared) -> MobileLLM:
    torch.manual_seed(0)
    model = MobileLLM(instantiate(compose("train", ["model=debug"]).model))
    # Far from uniform, so that the k are well apart.
    model.get_parameter("embedding.weight").data *= 40
    return model.eval()


@pytest.fixture
def teacher(model, prepared, tmp_path) -> Path:
    save_model(model, tmp_path / "teacher", prepared.tokenizer_path)
    return tmp_path / "teacher"


@pytest.fixture
def options(data_options, tmp_path) -> list[str]:
    return [*data_options, f"out={tmp_path}/store", f"sequence_length={SEQUENCE}", "k=6",
            "micro_batch_size=32", "accelerator=cpu", "num_threads=1"]  # fmt: skip


@pytest.fixture
def never_runs(monkeypatch):
    """Fail where the teacher runs."""

    def run(*_, **__):
        raise AssertionError("the teacher ran")

    monkeypatch.setattr(ModelTeacher, "run", run)
