"""The name of a run follows from what is trained, and from nothing else."""

import json
import random

import pytest

from mobilellm.run_folder import (
    CHECKPOINTS,
    LAST_CHECKPOINT,
    NOT_IDENTITY,
    check_may_start,
    config_hash,
    find_run_folder,
    locked,
    read_summary,
    run_name,
    write_summary,
)

CONFIG = {
    "model": {"num_blocks": 4},
    "data": {"train": "a.txt", "dir": "x", "workers": 2},
    "trainer": {"devices": 1, "precision": "32-true"},
    "logger": {},
    "output_dir": "outputs",
    "seed": 0,
}


def _changed(path: str, value: object) -> dict:
    config = json.loads(json.dumps(CONFIG))
    *parents, key = path.split(".")
    node = config
    for parent in parents:
        node = node.setdefault(parent, {})
    node[key] = value
    return config


@pytest.mark.parametrize("path", NOT_IDENTITY)
def test_where_and_how_fast_do_not_change_the_hash(path):
    assert config_hash(_changed(path, "other")) == config_hash(CONFIG)


@pytest.mark.parametrize("path", ["seed", "model.num_blocks", "data.train", "trainer.precision"])
def test_what_is_trained_changes_the_hash(path):
    assert config_hash(_changed(path, "other")) != config_hash(CONFIG)


def test_the_order_of_keys_does_not_matter():
    for seed in range(20):
        items = list(CONFIG.items())
        random.Random(seed).shuffle(items)
        assert config_hash(dict(items)) == config_hash(CONFIG)


def test_the_name_is_readable_and_names_no_path():
    overrides = ["experiment=demo", "hydra/launcher=local", "model.num_blocks=8", "seed=1",
                 "data.dir=/tmp/x", "variant=demo/shared", "output_dir=o"]  # fmt: skip
    assert run_name(CONFIG, overrides) == (
        f"num_blocks-8_seed-1_variant-shared-{config_hash(CONFIG)}"
    )
    assert run_name(CONFIG, []) == f"default-{config_hash(CONFIG)}"


def test_a_folder_is_found_again_whatever_the_order_of_overrides(tmp_path):
    first = find_run_folder(tmp_path, CONFIG, ["seed=0", "model.num_blocks=4"])
    first.mkdir()
    assert find_run_folder(tmp_path, CONFIG, ["model.num_blocks=4", "seed=0"]) == first
    assert find_run_folder(tmp_path, _changed("seed", 1), ["seed=1"]) != first


def test_nothing_is_overwritten(tmp_path):
    check_may_start(tmp_path, resume=False)
    (tmp_path / CHECKPOINTS).mkdir()
    (tmp_path / CHECKPOINTS / LAST_CHECKPOINT).touch()
    with pytest.raises(ValueError, match="unfinished run; continue it with resume=true"):
        check_may_start(tmp_path, resume=False)
    check_may_start(tmp_path, resume=True)
    write_summary(tmp_path, {"status": "finished"})
    for resume in (True, False):
        with pytest.raises(ValueError, match="is a finished run and is never overwritten"):
            check_may_start(tmp_path, resume=resume)


def test_a_broken_summary_is_named(tmp_path):
    assert read_summary(tmp_path) is None
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json is not JSON .* remove it to run again"):
        read_summary(tmp_path)


def test_one_process_at_a_time_trains_in_a_folder(tmp_path):
    refused = pytest.raises(ValueError, match="is being trained by another process; wait for it")
    with locked(tmp_path), refused, locked(tmp_path):
        pass
    with locked(tmp_path):
        pass
