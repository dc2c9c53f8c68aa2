"""A finished run trained on with a larger budget."""

import json
import logging

import pytest
import torch
from adamw_cosine import ADAMW_COSINE
from killed_runs import assert_same, rows
from omegaconf import OmegaConf

from mobilellm.cli.command import Stopped
from mobilellm.optim.schedules import cosine

WSD = ["schedule=wsd", "schedule.warmup_steps=2", "schedule.warmup_fraction=null",
       "schedule.decay_fraction=0.2"]  # fmt: skip
LOGGED = ["log_interval_steps=1"]


def folder_of(tmp_path, **facts):
    """The one run whose summary says so."""
    [found] = [
        path.parent
        for path in tmp_path.glob("outputs/*/*/summary.json")
        if facts.items() <= json.loads(path.read_text(encoding="utf-8")).items()
    ]
    return found


def test_from_the_plateau_it_equals_a_run_of_the_larger_budget(tiny_run, tmp_path, caplog):
    """Bit for bit: log, weights and moments; killed and resumed as well."""
    tiny_run(*WSD, *LOGGED, "max_tokens=1536")
    parent = folder_of(tmp_path)
    state = torch.load(parent / "checkpoints/plateau.ckpt", weights_only=True)
    assert state["progress"]["step"] == 9, "the tenth of twelve steps is the first below the peak"
    rates = [float(row["learning_rate"] or 2e-3) for row in rows(parent)]
    assert rates[2:10] == [2e-3] * 8
    assert rates[10] < 2e-3
    further = [*WSD, *LOGGED, f"extend_from={parent}", "max_tokens=2560"]
    stop = ["+callbacks.stop._target_=stopping.StopAt", "+callbacks.stop.step=13"]
    with caplog.at_level(logging.INFO), pytest.raises(Stopped):
        tiny_run(*further, *stop)
    assert f"continues from step 9 (1,152 tokens) of {parent}, plateau.ckpt" in caplog.text
    extended = tiny_run(*further, "resume=true")
    assert (extended["steps"], extended["tokens"]) == (20, 2560)
    assert extended["extended_from"] == str(parent)
    assert (extended["rewarmed"], extended["parent_tokens"]) == (False, 1152)
    tiny_run(*WSD, *LOGGED, "max_tokens=2560", "experiment_name=whole")
    mine, whole = folder_of(tmp_path, run=extended["run"]), folder_of(tmp_path, experiment="whole")
    assert mine.parent == parent.parent
    assert_same(mine, whole)
    assert len(rows(whole)) == 21


def test_a_finished_cosine_is_warmed_up_again(tiny_run, tmp_path):
    baseline = [*ADAMW_COSINE, *LOGGED]
    tiny_run(*baseline)
    parent = folder_of(tmp_path)
    before = (parent / "metrics.csv").read_text(encoding="utf-8")
    extended = tiny_run(*baseline, f"extend_from={parent}", "max_tokens=3840")
    assert (extended["steps"], extended["rewarmed"], extended["parent_tokens"]) == (30, True, 1536)
    mine = folder_of(tmp_path, rewarmed=True)
    assert rows(mine)[:13] == rows(parent)
    assert (parent / "metrics.csv").read_text(encoding="utf-8") == before
    again = cosine(warmup_fraction=0.05)
    rates = [float(row["learning_rate"]) for row in rows(mine)[13:]]
    expected = [2e-3 * max(0.1, again(n, (n + 1) / 18)) for n in range(18)]
    assert rates == pytest.approx(expected)
    state = torch.load(mine / "checkpoints/last.ckpt", weights_only=True)
    assert state["TokenDataModule"]["consumed_samples"] == 30 * 4
    [step] = {int(s["step"]) for s in state["optimizer_states"][0]["state"].values()}
    assert step == 30, "the moments go on"
    assert (mine / "checkpoints/best.ckpt").exists()
    # An extended run is extended like any other.
    longer = tiny_run(*baseline, f"extend_from={mine}", "max_tokens=4096")
    assert (longer["steps"], longer["parent_tokens"]) == (32, 3840)


def test_a_constant_rate_goes_on_from_the_end(tiny_run, tmp_path):
    constant = ["schedule=constant", "schedule.warmup_steps=2", "schedule.warmup_fraction=null"]
    tiny_run(*constant, *LOGGED)
    extended = tiny_run(*constant, *LOGGED, f"extend_from={folder_of(tmp_path)}", "max_tokens=2048")
    assert (extended["rewarmed"], extended["parent_tokens"]) == (False, 1536)
    tiny_run(*constant, *LOGGED, "max_tokens=2048", "experiment_name=whole")
    assert_same(folder_of(tmp_path, rewarmed=False), folder_of(tmp_path, experiment="whole"))


def test_the_command_needs_no_more_than_the_run_and_the_budget(command, tmp_path):
    """All else is the run's: micro-batch, data, shape; what cannot change the result may differ."""
    command("micro_batch_size=2", "seed=3", "learning_rate_probe=true",
            "learning_rate_probe_factors=[1,2]", "learning_rate_probe_share=0.1")  # fmt: skip
    parent = folder_of(tmp_path, seed=3)
    extended = command(f"extend_from={parent}", "max_tokens=2048", kept=[])
    config = OmegaConf.load(folder_of(tmp_path, rewarmed=False) / "config.yaml")
    assert (extended["seed"], extended["steps"], config.micro_batch_size) == (3, 16, 2)
    recorded = OmegaConf.load(parent / "config.yaml")
    assert config.optimizer == recorded.optimizer
    assert config.data == recorded.data
    other = command(
        f"extend_from={parent}", "max_tokens=2560", "micro_batch_size=1", "seed=3", kept=[]
    )
    assert (other["steps"], other["micro_batch_size"]) == (20, 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.num_blocks=3"], r"these differ: model.num_blocks=3 \(there 2\); leave them out"),
        (["sequence_length=16"], r"sequence_length=16 \(there 32\)"),
        (["data=text", "data.train=README.md"], r"data.train=README.md \(there "),
        (["data.tokenizer=x.model"], r"x\.model"),
        (["optimizer=muon", "seed=1"], r"vector_learning_rate_ratio=0.05 \(there null\) "),
        (["max_tokens=1536"], r"trained for 12 steps, 1,536 tokens and \d+ seconds, so "
                              r"that max_tokens=1,536 leaves no steps to train; give a larger"),
        (["max_steps=10"], r"max_tokens=9,999, max_steps=10 leaves no steps"),
        (["extend_from=/nowhere"], r"extend_from=/nowhere is not the folder of a run: it has"),
        (["experiment=demo"], r"takes all settings from that run; leave out experiment=demo"),
        (["compression=magnitude"], r"compression={…} \(there {…}\)"),
        (["distillation=forward_kl", "distillation.teacher=x"],
         "teacher=x does not exist"),
    ],
)  # fmt: skip
def test_what_makes_it_another_run_is_refused(command, tmp_path, overrides, message, finished):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        command(f"extend_from={finished}", "max_tokens=9999", *overrides, kept=[])


@pytest.fixture(scope="module")
def finished(corpus, prepared_dir, tmp_path_factory):
    """A finished run of AdamW and cosine, which are not the defaults."""
    from mobilellm.hydra_app.configuration import compose
    from mobilellm.pipeline.train import train

    folder = tmp_path_factory.mktemp("finished")
    train(compose("train", [
        "model=debug", "data=text", f"data.train={corpus}", "data.held_out=0.2",
        f"prepared_dir={prepared_dir}", f"output_dir={folder}", "sequence_length=32",
        "tokens_per_step=128", "max_tokens=1536", "validation_tokens=512", "trainer=cpu",
        *ADAMW_COSINE,
    ]))  # fmt: skip
    [summary] = folder.glob("default/*/summary.json")
    return summary.parent


def test_a_run_that_compresses_or_is_not_finished_is_refused(tiny_run, tmp_path):
    tiny_run("compression=magnitude", "compression.calibration_tokens=64")
    parent = folder_of(tmp_path)
    again = ["compression=magnitude", "compression.calibration_tokens=64",
             f"extend_from={parent}", "max_tokens=4096"]  # fmt: skip
    with pytest.raises(
        ValueError, match=r"compresses its model at shares of its budget.* init_from=.*/model"
    ):
        tiny_run(*again)
    summary = json.loads((parent / "summary.json").read_text(encoding="utf-8"))
    (parent / "summary.json").write_text(
        json.dumps(summary | {"status": "stopped"}), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"is not finished \(status stopped\); continue it first"):
        tiny_run(*again)


def test_a_distilled_run_is_extended_beside_its_teacher(tiny_run, tmp_path, finished):
    distilled = ["distillation=forward_kl", f"distillation.teacher={finished}"]
    tiny_run(*distilled, *LOGGED)
    extended = tiny_run(
        *distilled, *LOGGED, f"extend_from={folder_of(tmp_path)}", "max_tokens=2048"
    )
    assert extended["steps"] == 16
    last = rows(folder_of(tmp_path, rewarmed=False))[-1]
    assert any(name.startswith("train/loss/") and value for name, value in last.items())


def test_other_text_in_the_same_place_is_refused(tiny_run, tiny_overrides, tmp_path, corpus):
    own = tmp_path / "text"
    own.mkdir()
    for path in sorted(corpus.iterdir()):
        (own / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    mine = [f"data.train={own}", f"data.dir={tmp_path}/shards"]
    tiny_run(*mine)
    for path in own.iterdir():
        path.write_text(path.read_text(encoding="utf-8")[::-1], encoding="utf-8")
    again = [f"data.train={own}", f"data.dir={tmp_path}/others"]
    with pytest.raises(ValueError, match=r"was trained on other data than .*others holds"):
        tiny_run(*again, f"extend_from={folder_of(tmp_path)}", "max_tokens=2048")


def test_a_run_that_began_from_given_weights_is_extended(tiny_run, tmp_path, finished):
    begun = ["~model", f"init_from={finished}", f"data.dir={tmp_path}/shards",
             *ADAMW_COSINE]  # fmt: skip
    tiny_run(*begun, *LOGGED)
    extended = tiny_run(*begun, *LOGGED, f"extend_from={folder_of(tmp_path)}", "max_tokens=2048")
    assert (extended["steps"], extended["parent_tokens"]) == (16, 1536)


@pytest.mark.parametrize("model", [
    ["model=by_shape", "model.num_blocks=1", "model.hidden_size=32", "model.vocab_size=512"],
    ["model=by_budget", "model.budget=2e4", "model.match=body", "model.num_blocks=2",
     "model.vocab_size=512"],
])  # fmt: skip
def test_a_model_that_is_computed_need_not_be_named_again(command, tiny_overrides, tmp_path, model):
    """Its fields are not those of the default model, which is composed if none is named."""
    kept = [option for option in tiny_overrides if not option.startswith("model")]
    first = command(*model, "max_tokens=512", kept=kept)
    again = command(f"extend_from={folder_of(tmp_path)}", "max_tokens=1024", kept=[])
    assert again["model"] == first["model"]
    assert again["steps"] == 2 * first["steps"]
