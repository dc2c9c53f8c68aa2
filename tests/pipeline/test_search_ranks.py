"""A search whose trials have two processes each."""

import csv
import json

import pytest
from command_process import run_command


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_ranks_of_a_bad_trial_end_at_the_same_step(corpus, prepared_dir, tmp_path):
    done = run_command(
        "search", "model=by_shape", "model.vocab_size=512", "model.hidden_size=32",
        "~search_space.model", "model.num_blocks=1",
        "+search_space.optimizer.learning_rate=[1e-2,1e-7]", "search.sampler=grid",
        "search.n_trials=2", "search.pruning.rule=halving", "search.pruning.startup_trials=1",
        "search.pruning.factor=2", "data=text", f"data.train={corpus}", "data.held_out=0.2",
        f"prepared_dir={prepared_dir}", f"output_dir={tmp_path}", "experiment_name=ranks",
        "sequence_length=32", "tokens_per_step=128", "max_tokens=2560", "validation_tokens=256",
        "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.num_threads=1",
        "callbacks.run_summary=null", "callbacks.progress=null", "hydra.launcher.n_jobs=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "ranks"
    trials = [json.loads(path.read_text("utf-8")) for path in
              sorted(folder.glob("search/trials/*.json"))]  # fmt: skip
    good, bad = (folder / trial["run"] for trial in trials)
    summaries = [json.loads((run / "summary.json").read_text("utf-8")) for run in (good, bad)]
    assert [one["status"] for one in summaries] == ["finished", "pruned"]
    assert [one["devices"] for one in summaries] == [2, 2]
    # The trial ends at the first rung, a fifth of the 20 steps, and both ranks have left.
    with (bad / "metrics.csv").open(encoding="utf-8") as file:
        assert max(int(row["step"]) for row in csv.DictReader(file)) == 4
