"""The folder of a run is found again, also one that an earlier version made."""

import copy
from pathlib import Path

import pytest
from adamw_cosine import ADAMW_COSINE
from identity_configurations import SMALL, changed, composed

from mobilellm.hydra_app.configuration import compose
from mobilellm.pipeline.identity import (
    IDENTITY_VERSION,
    config_hash,
    differences,
    find_run_folder,
)
from mobilellm.run_folder import CONFIG, write_summary


def test_a_folder_is_found_again_whatever_the_order_of_overrides(tmp_path):
    first = find_run_folder(tmp_path, SMALL, ["seed=0", "model.num_blocks=4"])
    first.mkdir()
    assert find_run_folder(tmp_path, SMALL, ["model.num_blocks=4", "seed=0"]) == first
    assert find_run_folder(tmp_path, changed("seed", 1), ["seed=1"]) != first


def older_run(folder, config, **summary):
    """As earlier versions left one: another hash in its name, no identity in its summary."""
    from omegaconf import OmegaConf

    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(OmegaConf.to_yaml(OmegaConf.create(config)), encoding="utf-8")
    write_summary(folder, {"status": "running", **summary})


def test_folders_of_earlier_versions_are_found(tmp_path):
    config = composed("seed=1")
    recorded = copy.deepcopy(config)
    del recorded["extend_from"]
    older_run(tmp_path / "seed-1-00000000", recorded, seed=1)
    older_run(tmp_path / "seed-2-11111111", recorded | {"seed": 2}, seed=2)
    (tmp_path / "broken-22222222").mkdir()
    (tmp_path / "broken-22222222" / CONFIG).write_text("{", encoding="utf-8")
    found = tmp_path / "seed-1-00000000"
    assert find_run_folder(tmp_path, config) == found
    assert find_run_folder(tmp_path, composed("seed=1", "micro_batch_size=1")) == found
    assert find_run_folder(tmp_path, composed("seed=3")).name.startswith("default-")
    # Once the present version has written there, its identity says so.
    now = {"identity": config_hash(config), "identity_version": IDENTITY_VERSION}
    write_summary(found, {"status": "running", **now})
    (found / CONFIG).write_text("{}", encoding="utf-8")
    assert find_run_folder(tmp_path, config) == found


OLD_DEFAULTS = [*ADAMW_COSINE, "tokens_per_step=4096"]
MADE_BY_0_1 = Path(__file__).parent / "runs_of_0_1"
"""config.yaml of runs of version 0.1, by name and hash; made by composing with its code."""

# What a plan makes of data.add_eos=null for a tokenizer that does not ask for begin-of-text tokens.
ENDS = "data.add_eos=true"
COMMANDS = {
    "compressed_distilled": [
        *OLD_DEFAULTS,
        ENDS, "model=tiny_deep", "data=text", "data.train=corpus/train.txt",
        "data.validation=corpus/valid.txt", "seed=1", "compression=low_rank",
        "compression.num_stages=2", "compression.budget.ratio=0.6", "distillation=hidden_states",
        "distillation.teacher=dense", "callbacks.loss_guard.action=skip", "max_tokens=1e5",
    ],
    "plain": [
        ENDS,
        "model=tiny_shared", "data=stdlib", "optimizer=muon", "schedule=wsd", "logger=tensorboard",
        "tokens_per_step=4096", "optimizer.learning_rate=2e-3", "optimizer.momentum=0.95",
        "optimizer.muon_learning_rate_ratio=1.0", "optimizer.vector_learning_rate_ratio=1.0",
        "optimizer.decay_embeddings=true", "optimizer.betas=[0.9,0.95]",
        "schedule.decay_fraction=0.2",
    ],
    "step_by_step": [
        *OLD_DEFAULTS,
        "data=rationales", "data.train=q.jsonl", "distillation=step_by_step",
        "callbacks=label_accuracy", "distillation.rationale_weight=0.5",
    ],
}  # fmt: skip
"""The commands that made them, in today's spelling, with the defaults of that version."""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_run_of_version_0_1_is_found_by_the_command_in_todays_spelling(name, tmp_path):
    """With class paths and nested groups in its configuration, and another hash in its name."""
    from omegaconf import OmegaConf

    [file] = MADE_BY_0_1.glob(f"{name}-*.yaml")
    config = OmegaConf.to_container(
        compose("train", [*COMMANDS[name], "trainer=cpu"]), resolve=True
    )
    old_hash = file.stem.rpartition("-")[2]
    assert config_hash(config) != old_hash
    older_run(tmp_path / file.stem, OmegaConf.load(file), seed=config["seed"], identity=old_hash)
    assert find_run_folder(tmp_path, config) == tmp_path / file.stem
    assert differences(tmp_path / file.stem, config) == {}
    other_run = config | {"seed": config["seed"] + 1}
    assert find_run_folder(tmp_path, other_run) != tmp_path / file.stem


@pytest.mark.parametrize(
    "group",
    [
        ["compression=low_rank"],
        ["distillation=forward_kl", "distillation.teacher=t"],
        ["distillation=supernet"],
        ["adapter=lora"],
    ],
    ids=" ".join,
)
def test_a_group_that_is_switched_on_or_off_is_a_difference(group, tmp_path):
    """The recorded configuration has none of its keys, which does not make them new settings."""
    without, with_it = composed(), composed(*group)
    older_run(tmp_path / "without", without)
    older_run(tmp_path / "with", with_it)
    target = f"{group[0].partition('=')[0]}._target_"
    on = differences(tmp_path / "without", with_it, group)
    off = differences(tmp_path / "with", without)
    assert on[target][0] is None and on[target] == off[target][::-1]
    assert differences(tmp_path / "without", without) == {}
    # A run of a version without the group did not have it either.
    del without[target.partition(".")[0]]
    older_run(tmp_path / "older", without)
    assert target in differences(tmp_path / "older", with_it, group)


def test_a_namesake_in_another_module_is_refused(tmp_path):
    config = changed("optimizer._target_", "collections.abc.Mapping")
    older_run(tmp_path / f"a-{config_hash(config)}", config)
    again = changed("optimizer._target_", "typing.Mapping")
    with pytest.raises(ValueError, match=r"typing.Mapping has the same class name as collections"):
        find_run_folder(tmp_path, again)
    gone = changed("optimizer._target_", "no.such.module.Mapping")
    older_run(tmp_path / "b" / f"a-{config_hash(config)}", gone)
    assert find_run_folder(tmp_path / "b", config).name == f"a-{config_hash(config)}"


def test_a_setting_younger_than_the_run_differs_only_where_it_was_given(tmp_path):
    older_run(tmp_path / "a-00000000", SMALL, seed=0)
    younger = changed("model.new_key", 5)
    assert find_run_folder(tmp_path, younger, ["seed=0"]) == tmp_path / "a-00000000"
    given = ["seed=0", "model.new_key=5"]
    assert find_run_folder(tmp_path, younger, given) != tmp_path / "a-00000000"


def test_the_learning_rate_that_a_probe_chose_is_the_same_run(tmp_path):
    probing = {"learning_rate_probe": True, "learning_rate_probe_factors": [0.5, 1, 2]}
    config = SMALL | probing | {"optimizer": {"learning_rate": 1e-3}}
    older_run(tmp_path / "a-00000000", config | {"optimizer": {"learning_rate": 2e-3}}, seed=0)
    assert find_run_folder(tmp_path, config) == tmp_path / "a-00000000"
    other_rate = config | {"optimizer": {"learning_rate": 3e-3}}
    assert find_run_folder(tmp_path, other_rate) != tmp_path / "a-00000000"
