"""Every YAML file under conf/ composes, and what it describes can be built."""

import json
from functools import partial
from pathlib import Path

import pytest
from tiny_tokenizers import make_byte_level

from mobilellm.data.resolved import data_name
from mobilellm.hydra_app.configuration import compose, config_folder, instantiate
from mobilellm.hydra_app.help_text import help_text
from mobilellm.models import ModelConfig
from mobilellm.pipeline.parts import make_recipe

CONF = Path(__file__).parents[2] / "conf"
ROOTS = ("train", "prepare_data", "explain", "coordinate_check", "compress", "extract",
         "prepare_logits", "search")  # fmt: skip
GROUPS = ("model", "data", "optimizer", "schedule", "parametrization", "compression",
          "distillation", "adapter", "callbacks", "trainer", "logger")  # fmt: skip
# Devices that a machine may lack, checked when a run is planned and not when it is described.
TEXT = ("text", "jsonl", "parquet", "tokenized_jsonl", "mixture", "hub", "rationales",
        "rationales_hub", "conversations", "conversations_hub", "preferences",
        "preferences_hub")  # fmt: skip


def _choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _files() -> list[str]:
    return sorted(str(path.relative_to(CONF).with_suffix("")) for path in CONF.rglob("*.yaml"))


def _local_data(name: str, folder: Path) -> list[str]:
    """Overrides for the data choices that name no data of their own."""
    (folder / "a.txt").write_text("some text\n" * 100, encoding="utf-8")
    (folder / "a.jsonl").write_text(
        json.dumps({"text": "some text", "token_ids": [3, 4]}) + "\n", encoding="utf-8"
    )
    if name == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"text": ["some text"]}), folder / "a.parquet")
    file = {"text": "a.txt", "parquet": "a.parquet"}.get(name, "a.jsonl")
    if name.startswith(("conversations", "preferences")):
        path = make_byte_level(folder, template="{{ messages[0]['content'] + eos_token }}")
        where = "dataset_name=owner/name" if name.endswith("hub") else f"train={folder}/a.jsonl"
        return [f"data.tokenizer={path}", f"data.{where}"]
    return {
        "hub": ["data.dataset_name=owner/name"],
        "rationales_hub": ["data.dataset_name=owner/name"],
        "mixture": [f"data.sources.text.train={folder}/a.txt"],
    }.get(name, [f"data.train={folder}/{file}"])


def test_every_file_is_reached_by_these_tests():
    groups = [*GROUPS, "experiment", "variant", "hydra", "search_space"]
    for file in _files():
        assert file in ROOTS or file.partition("/")[0] in groups, file


def test_shared_parts_are_no_choices():
    """Neither in `--help` nor where a choice is not known."""
    assert "shared/" not in help_text(CONF, "train", "")
    with pytest.raises(ValueError, match="data=txt is not known") as refused:
        compose("train", ["data=txt"])
    assert "shared/" not in str(refused.value)


def test_the_folder_is_found():
    assert config_folder() == CONF


@pytest.mark.parametrize("root", ROOTS)
def test_every_root_composes(root):
    assert compose(root)


@pytest.mark.parametrize(
    ("group", "choice"), [(group, choice) for group in GROUPS for choice in _choices(group)]
)
def test_every_choice_composes_and_builds(group, choice, tmp_path):
    overrides = [f"{group}={choice}"]
    if group == "data" and choice in TEXT:
        overrides += _local_data(choice, tmp_path)
    node = compose("train", overrides)[group]
    built = make_recipe(node) if group == "compression" and node else instantiate(node)
    if group == "model":
        assert isinstance(built, ModelConfig)
    elif group == "optimizer":
        assert isinstance(built, partial)
    elif group == "schedule":
        assert 0 <= built(0, 0.0) <= 1
    elif group == "data":
        assert built.vocab_size == 2048
        assert data_name(built)
    elif group in ("callbacks", "logger"):
        assert isinstance(built, dict)


def test_the_launcher_builds():
    from mobilellm.hydra_app.configuration import config_loader, load

    with config_loader() as loader:
        from hydra.types import RunMode

        config = load(loader, "train", ["hydra/launcher=local"], RunMode.MULTIRUN)
    launcher = instantiate(config.hydra.launcher)
    assert launcher.n_jobs >= 1
