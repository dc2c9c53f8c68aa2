"""Every experiment runs: each of its trials four steps, its sweep from start to report."""

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from chat_models import save_chat_model
from omegaconf import OmegaConf
from simulated_profile import true_time, write_profile

from mobilellm.hydra_app.configuration import compose
from mobilellm.pipeline.search.setup import read_search
from mobilellm.pipeline.train import train

ROOT = Path(__file__).parents[2]
SEARCHES = ("search_demo",)
EXPERIMENTS = sorted(
    path.stem for path in (ROOT / "conf/experiment").glob("*.yaml") if path.stem not in SEARCHES
)
SHORT = ["max_steps=4", "horizons=null", "sequence_length=32", "tokens_per_step=64",
         "validation_tokens=64",
         "validation_interval_tokens=1000", "learning_rate_probe=false", "model.vocab_size=512",
         "callbacks.progress=null", "callbacks.run_summary=null",
         "callbacks.throughput=null", "trainer=cpu", "trainer.num_threads=1"]  # fmt: skip

MANY = 12

# A few layers and little calibration text are enough to see that it runs.
CALIBRATION = {
    name: [
        "compression.calibration_tokens=256",
        'compression.layers=[embedding,"blocks.[135].feed_forward.*"]',
    ]
    for name in ("kngpt2", "tqcompressor")
} | {"minitron": ["compression.calibration_tokens=1024"]}


CONVERSATIONS = ("chat", "api_calling")


def _conversations(folder: Path) -> list[str]:
    """Overrides of conversations about functions, and of a model with a chat template."""
    # The ranks of the adapters are at most the smaller side of each matrix.
    wide = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4}
    if not (folder / "chat_model").exists():
        save_chat_model(folder / "chat_model", **wide)
    turns = [("user", "the fox?"), ("parser", '{"name": "run", "arguments": {}}'), ("tool", "3"),
             ("assistant", "away")]  # fmt: skip
    messages = [{"role": role, "content": text} for role, text in turns]
    rows = [{"messages": [*messages, {"role": "user", "content": "a" * (n % 7)}],
             "tools": [{"name": f"run_{n % 20}"}]} for n in range(40)]  # fmt: skip
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return [f"init_from={folder}/chat_model", f"data.train={folder}/chats.jsonl",
            "sequence_length=256", "tokens_per_step=512", "validation_tokens=256"]  # fmt: skip


def _preferences(folder: Path) -> list[str]:
    """Overrides of pairs of answers, and of a model with a chat template."""
    given = _conversations(folder)
    rows = [{"prompt": f"{n} foxes?", "chosen": "a" * (n % 7), "rejected": "the dog"}
            for n in range(40)]  # fmt: skip
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return [*given, f"data.train={folder}/pairs.jsonl"]


def _data(experiment: str, corpus: Path, folder: Path) -> list[str]:
    """Overrides of the data: text, or questions about its lines."""
    if experiment in CONVERSATIONS:
        return _conversations(folder)
    if experiment == "preferences":
        return _preferences(folder)
    if experiment != "step_by_step":
        return ["data=text", f"data.train={corpus}", "data.held_out=0.2"]
    lines = [
        line.strip() for file in sorted(corpus.iterdir()) for line in file.open(encoding="utf-8")
    ]
    rows = [
        {"input": line, "label": line.split()[0], "rationale": f"It begins so: {line[:20]}"}
        for line in lines[:1000]
        if 0 < len(line) < 60
    ]
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    return [f"data.train={folder}/rows.jsonl", "sequence_length=128", "tokens_per_step=256",
            "validation_tokens=128", "callbacks.label_accuracy.max_questions=4"]  # fmt: skip


def _profile(experiment: str, folder: Path) -> list[str]:
    """A device profile for the experiment that needs one; its times are made up."""
    if experiment != "matched_latency":
        return []
    path = write_profile(
        folder / "device.json", depths=(2, 4, 8, 16), widths=(32, 64, 128, 256, 512),
        times=lambda model: 0.8 * true_time(model),
    )  # fmt: skip
    return [f"model.latency_profile={path}"]


def _trials(experiment: str) -> list[list[str]]:
    """Overrides of each of the experiment's models, with its first seed.

    Of a product of many ranges, only the ends of each range.
    """
    file = OmegaConf.load(ROOT / f"conf/experiment/{experiment}.yaml")
    if "hydra" not in file:  # it changes another experiment, whose trials it keeps
        return _trials(file.defaults[0])
    params = file.hydra.sweeper.params
    axes = [
        [f"{key}={value}" for value in str(values).split(",")]
        for key, values in params.items()
        if key != "seed"
    ]
    if math.prod(map(len, axes)) > MANY:
        axes = [[axis[0], axis[-1]] for axis in axes]
    return [list(trial) for trial in itertools.product(*axes)]


QUICK = ("demo", "matched_latency")


@pytest.mark.parametrize(
    "experiment",
    [
        # The others take up to half a minute each.
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in EXPERIMENTS
    ],
)
def test_every_model_of_an_experiment_runs_four_steps(experiment, corpus, prepared_dir, tmp_path):
    seen = set()
    for trial in _trials(experiment):
        overrides = [
            f"experiment={experiment}", *trial, *SHORT, *_data(experiment, corpus, tmp_path),
            *CALIBRATION.get(experiment, ()), *_profile(experiment, tmp_path),
            f"prepared_dir={prepared_dir}", f"output_dir={tmp_path}/outputs",
        ]  # fmt: skip
        summary = train(compose("train", overrides))
        assert (summary["status"], summary["steps"]) == ("finished", 4)
        seen.add(f"{summary['model']} {summary['val_loss']}")
    assert len(seen) == len(_trials(experiment)), "two trials learn the same"


@pytest.mark.parametrize("experiment", SEARCHES)
def test_the_space_of_a_search_has_more_points_than_trials(experiment):
    setup = read_search(compose("search", [f"experiment={experiment}"]))
    assert setup.feasibility.survey().feasible > setup.settings.n_trials
    assert setup.settings.pruning_rule is not None


def test_every_variant_belongs_to_an_experiment():
    used = {
        part.partition("=")[2]
        for name in EXPERIMENTS
        for trial in _trials(name)
        for part in trial
        if part.startswith("variant=")
    }
    folder = ROOT / "conf/variant"
    assert used == {str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml")}


@pytest.mark.slow
def test_a_sweep_runs_once_and_its_report_is_made(corpus, prepared_dir, tmp_path):
    """From the command line, with our launcher; the second call finds nothing left to do."""
    sweep = [
        sys.executable, "scripts/train.py", "-m", "experiment=demo",
        "variant=demo/2_blocks,demo/4_blocks", "seed=0", *SHORT, "data=text",
        f"data.train={corpus}", "data.held_out=0.2", f"prepared_dir={prepared_dir}",
        f"output_dir={tmp_path}",
    ]  # fmt: skip
    subprocess.run(sweep, cwd=ROOT, check=True, timeout=300)
    summaries = {path: path.stat().st_mtime_ns for path in tmp_path.glob("demo/*/summary.json")}
    assert len(summaries) == 2
    subprocess.run(sweep, cwd=ROOT, check=True, timeout=300)
    assert {path: path.stat().st_mtime_ns for path in summaries} == summaries
    report = subprocess.run(
        [sys.executable, "scripts/compare.py", str(tmp_path / "demo")],
        cwd=ROOT, check=True, timeout=300, capture_output=True, text=True,
        encoding="utf-8",
    )  # fmt: skip
    assert (tmp_path / "demo/comparison/index.html").exists()
    assert "index.html" in report.stdout.replace("\n", "")
