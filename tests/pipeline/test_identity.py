"""The name of a run follows from what is trained, and from nothing else."""

import json
import os
import random

import pytest
from identity_configurations import SMALL, changed, composed

from mobilellm.pipeline.identity import config_hash, identity, passive_callbacks, run_name
from mobilellm.run_settings import NOT_IDENTITY, flat_config


@pytest.mark.parametrize("path", NOT_IDENTITY)
def test_where_and_how_fast_do_not_change_the_hash(path):
    assert config_hash(changed(path, "other")) == config_hash(SMALL)


def test_the_order_of_keys_does_not_matter():
    for seed in range(20):
        items = list(SMALL.items())
        random.Random(seed).shuffle(items)
        assert config_hash(dict(items)) == config_hash(SMALL)


@pytest.mark.parametrize(
    "overrides",
    [
        ["micro_batch_size=1"],
        ["trainer=gpu"],
        ["trainer.compile=true", "trainer.activation_checkpointing=true"],
        ["trainer=ddp", "trainer.devices=2"],
        ["callbacks.progress=null", "callbacks.throughput=null", "callbacks.run_summary=null"],
        ["callbacks.checkpoint.every_steps=7", "callbacks.graceful_stop=null"],
        ["learning_rate_probe_factors=[1,3]", "learning_rate_probe_seed=5"],
        ["max_tokens=1e6"],
        ["tokens_per_step=4_096"],
        ["optimizer.learning_rate=0.002"],
        ["logger=tensorboard"],
        [f"data.train={os.getcwd()}/b/../a"],
        ["data.train=./a/"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_cannot_change_the_result_is_no_part_of_the_identity(overrides):
    base = composed("max_tokens=1000000", "tokens_per_step=4096", "optimizer.learning_rate=2e-3")
    assert identity(composed("optimizer.learning_rate=2e-3", *overrides)) == identity(base)


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer=fsdp"], ["trainer.precision=bf16-true"], ["callbacks.loss_guard.action=skip"],
        ["callbacks.loss_guard=null"], ["learning_rate_probe=true"], ["data.train=b"],
        ["data.train=[a,b]"], ["gradient_clip_norm=null"], ["init_from=a"], ["extend_from=a"],
        ["distillation=forward_kl", "distillation.teacher=a"],
        ["+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_may_change_the_result_is_part_of_it(overrides):
    assert config_hash(composed(*overrides)) != config_hash(composed())


def test_the_factors_count_where_the_probe_is_on():
    on = "learning_rate_probe=true"
    assert config_hash(composed(on, "learning_rate_probe_factors=[1,3]")) != config_hash(
        composed(on)
    )


def other(value):
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value, 1]
    return f"{value}x" if isinstance(value, str) else 3


def test_every_other_setting_changes_the_hash():
    """Over all keys of a run with everything on, each to another value, alone."""
    config = composed(
        "compression=structured", "distillation=kngpt2", "learning_rate_probe=true",
        "distillation.teacher=t", "schedule=wsd", "optimizer=muon",
    )  # fmt: skip
    base, unchanged = config_hash(config), set()
    for key, value in flat_config(config).items():
        if config_hash(changed(key, other(value), config)) == base:
            unchanged.add(key)
    watched = {k for k in unchanged if k.startswith("callbacks.") and "loss_guard" not in k}
    free = {k for k in unchanged if any(f"{k}.".startswith(f"{name}.") for name in NOT_IDENTITY)}
    # A class that cannot be imported is no callback that watches.
    assert unchanged == watched | free
    assert {"callbacks.checkpoint.every_seconds", "callbacks.progress._partial_"} & watched


def test_a_callback_of_ones_own_counts_until_it_says_otherwise():
    """Also one that is derived from a callback of ours that only watches."""
    own = f"+callbacks.own._target_={__name__}.Derived"
    assert config_hash(composed(own)) != config_hash(composed())
    watching = f"+callbacks.own._target_={__name__}.Watching"
    assert config_hash(composed(watching)) == config_hash(composed())


def test_passive_callbacks_are_those_whose_class_is_marked():
    marked = ["run_summary", "throughput", "progress", "graceful_stop", "checkpoint"]
    assert set(passive_callbacks(composed())) == set(marked)
    for kind, is_passive in (("Watching", True), ("Measuring", True), ("Derived", False)):
        config = composed(f"+callbacks.own._target_={__name__}.{kind}")
        assert ("own" in passive_callbacks(config)) == is_passive
    measuring = composed(f"+callbacks.own._target_={__name__}.Measuring")
    assert config_hash(measuring) != config_hash(composed())


class Watching:
    watches_only = True


class Measuring:
    measures_only = True


class Derived(Watching):
    pass


def test_moving_everything_together_changes_nothing(tmp_path):
    hashes = set()
    for place in ("here", "there/deeper"):
        config = changed("data.train", f"{tmp_path}/{place}/corpus")
        hashes.add(config_hash(changed("output_dir", f"{tmp_path}/{place}/outputs", config)))
    assert len(hashes) == 1


def test_the_name_is_readable_and_names_no_path():
    overrides = ["experiment=demo", "hydra/launcher=local", "model.num_blocks=8", "seed=1",
                 "data.dir=/tmp/x", "variant=demo/shared", "output_dir=o", "micro_batch_size=1",
                 "max_tokens=2e4", "init_from=outputs/default/seed-1_max-0a1b2c3d"]  # fmt: skip
    assert run_name(SMALL, overrides) == (
        f"num_blocks-8_seed-1_variant-shared_max_tokens-2e4_init_from-0a1b2c3d-{config_hash(SMALL)}"
    )
    assert run_name(SMALL, []) == f"default-{config_hash(SMALL)}"


def test_a_long_name_leaves_the_data_out():
    files = ["data.train=[corpus/a,corpus/b,corpus/c]", "data.document=blank_line"]
    shape = ["model.num_blocks=8", "sequence_length=512", "tokens_per_step=8192"]
    assert run_name(SMALL, [*files, *shape, "optimizer.weight_decay=0.1", "seed=1"]).startswith(
        "num_blocks-8_sequence_length-512_tokens_per_step-8192_weight_decay-0.1_seed-1-"
    )
    assert run_name(SMALL, [*files, "seed=1"]).startswith("train-")


@pytest.mark.parametrize(
    ("key", "moved"),
    [
        ("optimizer", "some.other.module.adamw"),
        ("schedule", "mobilellm.optim.schedules.cosine"),
        ("callbacks.loss_guard", "mobilellm.callbacks.loss_guard.LossGuardCallback"),
        ("compression", "mobilellm.compression.pruning.Pruning"),
    ],
)
def test_moving_a_class_renames_no_run(key, moved):
    config = composed("compression=wanda")
    assert config_hash(changed(f"{key}._target_", moved, config)) == config_hash(config)


@pytest.mark.parametrize("key", ["optimizer", "data", "compression", "callbacks.loss_guard"])
def test_another_class_renames_a_run(key):
    config = composed("compression=wanda")
    other_class = changed(f"{key}._target_", "mobilellm.somewhere.Other", config)
    assert config_hash(other_class) != config_hash(config)


def test_the_hash_is_stable():
    """Names of folders outlive versions: this value changes only with the meaning of a name."""
    assert config_hash(json.loads(json.dumps(SMALL))) == "893cdf52"
