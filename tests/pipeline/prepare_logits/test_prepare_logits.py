"""`scripts/prepare_logits.py`: a teacher's top k in a store, whatever interrupts it."""

import json
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from command_process import run_command
from logit_making import SEQUENCE, files_of, make_store

from mobilellm.checkpoint import load_model, save_model
from mobilellm.distillation.logit_store.store import LogitStore
from mobilellm.distillation.teachers.opening import open_teacher
from mobilellm.models import MobileLLM
from mobilellm.pipeline import teacher_pass
from mobilellm.pipeline.model_hash import model_hash

ROOT = Path(__file__).parents[3]


def _command(teacher: Path, *options: str) -> list[str]:
    return [sys.executable, "scripts/prepare_logits.py", str(teacher), *options]


@pytest.mark.parametrize("document_mask", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_store_holds_what_the_teacher_says(
    teacher, model, options, prepared, document_mask, temperature
):
    """Against a float64 run of single windows, and of single documents where these are isolated."""
    store = make_store(
        teacher, options, f"data.document_mask={document_mask}", f"temperature={temperature}",
        "windows_per_shard=100",
    )  # fmt: skip
    store.verify()
    tokens = torch.from_numpy(prepared.tokens("train")[:].astype("int64"))
    assert len(store) == (len(tokens) - 1) // SEQUENCE
    ends = [n for n in range(len(store)) if 2 in tokens[n * SEQUENCE : (n + 1) * SEQUENCE - 1]]
    windows = [*random.sample(range(len(store)), 10), *ends[:3]]
    model = model.double()
    for window, indices, found in zip(windows, *_stored(store, windows), strict=True):
        ids = tokens[window * SEQUENCE : (window + 1) * SEQUENCE]
        with torch.no_grad():
            logits = torch.cat([model(part[None]).logits[0] for part in _parts(ids, document_mask)])
        expected = (logits / temperature).log_softmax(-1)
        # Half a step of rounding, once more where the sum is lowered, and float32.
        assert torch.allclose(found.double(), expected.gather(-1, indices), atol=2e-3)
        assert torch.allclose(found.double(), expected.topk(6).values, atol=2e-3)


def test_samples_depend_on_the_seed_and_the_window_alone(teacher, options, tmp_path):
    made = {}
    for name, more in (("a", []), ("b", ["micro_batch_size=3"]), ("c", ["seed=1"])):
        store = make_store(
            teacher, options, "method=sampled", "windows_per_shard=100", *more,
            f"out={tmp_path}/{name}",
        )  # fmt: skip
        made[name] = store.read([0, 5]).indices
    assert store.read([0]).is_sample
    assert torch.equal(made["a"], made["b"])
    assert not torch.equal(made["a"], made["c"])


def _stored(store, windows):
    top = store.read(windows)
    return top.indices, top.log_probabilities


def _parts(ids, document_mask):
    if not document_mask:
        return [ids]
    sizes = torch.bincount((ids == 2).cumsum(0) - (ids == 2).long()).tolist()
    return [part for part in ids.split(sizes) if len(part)]


def test_a_store_tells_what_the_rounded_teacher_tells_online(teacher, options, prepared):
    store = make_store(teacher, options)
    windows = prepared.windows("train", SEQUENCE)
    chosen = random.sample(range(len(windows)), 7)
    batch = {name: torch.stack([windows[n][name] for n in chosen]) for name in windows[0]}
    batch["window"] = torch.tensor(chosen)
    whole = slice(0, 7 * SEQUENCE)
    online: Any = open_teacher(teacher, top_k=6, rounding="fixed16").run(batch).target(whole, 1.0)
    stored: Any = open_teacher(store.folder).run(batch).target(whole, 1.0)
    same = (online.indices == stored.indices).double().mean()
    assert same > 0.999
    assert torch.allclose(online.log_probabilities, stored.log_probabilities, atol=1e-3)
    assert (online.log_probabilities == stored.log_probabilities).double().mean() > 0.98


def test_a_run_teaches_on_the_data_it_was_trained_on(tiny_run, tiny_overrides, corpus, tmp_path):
    """Its data were prepared with a tokenizer trained on them, and are taken as they are."""
    little = f"data.train={corpus}/calendar.txt"
    summary = tiny_run(little)
    run = next((tmp_path / "outputs").glob(f"*/{summary['run']}"))
    data = [option for option in tiny_overrides if option.startswith(("data", "prepared_dir"))]
    data.append(little)
    given = [f"out={tmp_path}/store", "sequence_length=512", "k=3", "micro_batch_size=32"]
    store = make_store(run, [*data, *given])
    assert store.manifest["inputs"]["data_hash"] == summary["hashes"]["train"]
    assert store.inputs.teacher_hash == model_hash(load_model(run / "model"))


def test_a_hugging_face_folder_teaches(teacher, model, prepared, options, tmp_path):
    from mobilellm.formats.huggingface import export_huggingface

    mine = make_store(teacher, options)
    export_huggingface(model, tmp_path / "hf", prepared.tokenizer_path)
    theirs = make_store(tmp_path / "hf", options, f"out={tmp_path}/theirs")
    windows = random.sample(range(len(mine)), 5)
    found, expected = theirs.read(windows), mine.read(windows)
    assert torch.allclose(found.log_probabilities, expected.log_probabilities, atol=1e-3)


@pytest.mark.slow
def test_a_killed_store_is_gone_on_with_byte_for_byte(teacher, options, tmp_path):
    more = ("micro_batch_size=3", "windows_per_shard=50")
    whole = make_store(teacher, options, *more)
    killed = tmp_path / "killed"
    arguments = [*options, *more, f"out={killed}"]
    for shards in sorted(random.sample(range(1, whole.inputs.num_shards - 3), 2)):
        process = subprocess.Popen(_command(teacher, *arguments), cwd=ROOT)
        deadline = time.monotonic() + 120
        while len(list(killed.glob("*.logits"))) < shards and time.monotonic() < deadline:
            assert process.poll() is None, "it finished before it was killed"
            time.sleep(0.002)
        process.kill()
        process.wait()
    with pytest.raises(ValueError, match=rf"it holds \d+ of {whole.inputs.num_shards} shards"):
        LogitStore(killed)
    first = (killed / "00000.logits").stat().st_mtime_ns
    make_store(teacher, arguments)
    assert (killed / "00000.logits").stat().st_mtime_ns == first
    assert files_of(killed) == files_of(whole.folder)


def test_two_at_once_make_one_store(teacher, options, tmp_path):
    with ThreadPoolExecutor(2) as threads:
        started = [
            threads.submit(run_command, "prepare-logits", teacher, *options) for _ in range(2)
        ]
    both = [one.result() for one in started]
    assert [done.returncode for done in both] == [0, 0]
    assert sum("finished already: nothing to do" in done.stderr for done in both) == 1
    LogitStore(tmp_path / "store").verify()


def test_a_finished_store_is_reused_and_reported(teacher, options, monkeypatch, capsys):
    store = make_store(teacher, options)
    before = files_of(store.folder)
    monkeypatch.setattr(teacher_pass, "write_missing", None)
    make_store(teacher, options)
    assert files_of(store.folder) == before
    printed, said = capsys.readouterr()
    assert "finished already: nothing to do" in said
    assert "tokens/s" in said
    assert "24 bytes per token" in printed
    assert f"captured probability mass: {store.manifest['captured_mass']['mean']:.4f}" in printed
    assert f"distillation.teacher={store.folder}" in printed


def test_a_folder_is_named_after_what_is_in_it(teacher, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {make_store(teacher, options, "out=null", f"k={k}").folder for k in (2, 2, 3)}
    assert len(names) == 2
    assert all(name.parent == Path("logits") and "-32-top" in name.name for name in names)


def test_logits_exist_for_a_chunk_of_tokens_at_a_time(teacher, options, monkeypatch, tmp_path):
    whole = make_store(teacher, options)
    rows = []
    unembed = MobileLLM.unembed

    def counted(self, hidden):
        rows.append(hidden.shape[0])
        return unembed(self, hidden)

    monkeypatch.setattr(MobileLLM, "unembed", counted)
    monkeypatch.setattr(teacher_pass, "LOSS_CHUNK_LOGITS", {"cpu": 512 * 50})
    chunked = make_store(teacher, options, f"out={tmp_path}/chunked")
    assert max(rows) == 50
    assert sum(rows) == len(whole) * SEQUENCE
    windows = range(0, len(whole), 17)
    assert torch.allclose(
        chunked.read(windows).log_probabilities, whole.read(windows).log_probabilities, atol=1e-3
    )


def test_a_model_is_known_by_its_weights(model, tmp_path):
    known = model_hash(model)
    save_model(model, tmp_path / "a")
    assert model_hash(load_model(tmp_path / "a")) == known
    model.norm.weight.data[3] += 1e-3
    assert model_hash(model) != known


def test_the_command_line(teacher, options, tmp_path):
    refused = run_command("prepare-logits", teacher, *options, "k=9999")
    assert refused.returncode == 2
    assert "error: k=9999 must be at most vocab_size=512" in refused.stderr
    assert "Traceback" not in refused.stderr
    done = run_command("prepare-logits", teacher, *options)
    assert done.returncode == 0, done.stderr
    assert "captured probability mass" in done.stdout
    manifest = json.loads((tmp_path / "store/manifest.json").read_text(encoding="utf-8"))
    assert manifest["bytes_per_token"] == 24
