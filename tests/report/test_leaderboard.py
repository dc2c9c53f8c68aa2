"""Folders that scripts/compress.py wrote, ranked by what they cost and lose."""

import csv
import io
import json

import pytest
from rich.console import Console
from simulated_sweep import count, model, summary, write_run

from mobilellm.compression.factorization import Factorization
from mobilellm.compression.part_templates import PartTemplate
from mobilellm.compression.pruning import Pruning
from mobilellm.compression.size_budget import SizeBudget
from mobilellm.compression.structured_pruning import StructuredPruning
from mobilellm.report import compare
from mobilellm.report.compressed import parse_recipe
from mobilellm.report.run_settings import recipe_text

HASHES = {"data": "d", "tokenizer": "e", "train": "a", "validation": "b" * 64}


def row(name, loss, stored, **measured):
    counts = count(model()) | {"stored": stored}
    times = {"prefill_ms": 20.0, "decode_ms_per_token": 4.0, "peak_memory_bytes": 9_000_000}
    return {"model": name, "parameters": counts, "loss": loss} | times | measured


def write_compressed(folder, recipe, loss, *, stored=600_000, size=1_500_000, **changes):
    """What scripts/compress.py leaves, with weights of `size` bytes."""
    folder.mkdir(parents=True)
    report = {
        "recipe": str(recipe), "plan": {}, "relative_errors": {},
        "models": [row("dense", 4.2, 1_000_000), row("compressed", loss, stored)],
        "validation_tokens": 8192, "sequence_length": 256, "hashes": HASHES,
    } | changes  # fmt: skip
    (folder / "compression.json").write_text(json.dumps(report), encoding="utf-8")
    config = {"format": "mobilellm/1", **model().to_dict()}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(bytes(size))
    return folder


LOW_RANK = Factorization(budget=SizeBudget(ratio=0.5), parts=[])
WANDA = Pruning(method="wanda", sparsity=0.5)


def printed(found, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(found)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (LOW_RANK, "low rank ½"),
        (WANDA, "wanda ½ zero"),
        (Pruning(method="magnitude", sparsity=0.5, pattern="2:4"), "magnitude 2:4"),
        (StructuredPruning(keep_heads=0.75), "structured heads ¾"),
        (Factorization(budget=SizeBudget(ratio=0.5), parts=None), "searched ½"),
        (
            Factorization(
                budget=SizeBudget(ratio=0.5),
                parts=[PartTemplate(right=(1, 2))],
            ),
            "kronecker ½",
        ),
    ],
)
def test_a_recipe_is_named_as_it_is_configured(recipe, expected):
    assert recipe_text(parse_recipe(str(recipe))) == expected


def test_ranked_by_loss_beside_the_dense_model(tmp_path):
    write_compressed(tmp_path / "one", LOW_RANK, 4.9)
    write_compressed(tmp_path / "two", WANDA, 4.4, size=1_700_000)
    found = compare([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    assert [(one.label, one.kind) for one in found.compressed] == [
        ("dense", "dense"),
        ("8×112 wanda ½ zero", "compressed"),
        ("8×112 low rank ½", "compressed"),
    ]
    best = found.compressed[1]
    assert (best.bytes_on_disk, best.ratio, best.loss) == (1_700_000, 0.6, 4.4)
    assert found.verdict == (
        "Lowest loss of the 2 compressed models on the same text: 8×112 wanda ½ zero, 4.400 nats "
        "per token, +0.200 compared with the dense model at 60 % of its parameters."
    )
    assert not any(caution.is_serious for caution in found.cautions)
    rows = list(csv.DictReader((tmp_path / "out" / "comparison.csv").open(encoding="utf-8")))
    assert [(line["shape"], line["status"]) for line in rows] == [
        ("8×112 wanda ½ zero", "compressed"), ("8×112 low rank ½", "compressed"),
    ]  # fmt: skip
    page = found.page.read_text(encoding="utf-8")
    for text in ("1.70 MB", "0.60", "4.900", "+0.700", "20.0", "4.00"):
        assert text in page
        assert text in printed(found, 80) and text in printed(found, 100)


def test_what_the_report_says_of_bytes_goes_before_the_files(tmp_path):
    models = [row("dense", 4.2, 10**6), row("compressed", 4.4, 10**6, disk_bytes=123_000)]
    write_compressed(tmp_path / "one", WANDA, 4.4, models=models)
    assert compare([tmp_path]).compressed[-1].bytes_on_disk == 123_000


def test_a_model_that_was_compressed_before_is_not_called_dense(tmp_path):
    models = [row("low rank", 4.2, 10**6), row("compressed", 4.4, 10**6)]
    write_compressed(tmp_path / "one", WANDA, 4.4, models=models)
    found = compare([tmp_path])
    assert [(one.label, one.kind) for one in found.compressed] == [
        ("low rank", "given"), ("8×112 wanda ½ zero", "compressed"),
    ]  # fmt: skip


def test_masked_weights_do_not_count_as_kept(tmp_path):
    after = row("compressed", 4.4, 10**6)
    after["parameters"]["nonzero"] = 550_000
    write_compressed(tmp_path / "one", WANDA, 4.4, models=[row("dense", 4.2, 10**6), after])
    assert compare([tmp_path]).compressed[-1].ratio == 0.55


def test_a_baseline_needs_runs(tmp_path):
    write_compressed(tmp_path / "one", WANDA, 4.4)
    with pytest.raises(ValueError, match="--baseline '8×112' requires runs, but there are none"):
        compare([tmp_path], baseline="8×112")


def test_other_texts_do_not_compare(tmp_path):
    write_compressed(tmp_path / "one", LOW_RANK, 4.9)
    write_compressed(tmp_path / "two", WANDA, 4.4, validation_tokens=4096)
    found = compare([tmp_path], tmp_path / "out")
    (text,) = [caution.message for caution in found.cautions if caution.is_serious]
    assert "2 different texts or window lengths" in text


def test_folders_of_earlier_versions(tmp_path):
    """They know neither the text nor the model they came from, but its loss."""
    for name, loss in (("one", 4.9), ("two", 4.4)):
        folder = write_compressed(tmp_path / name, LOW_RANK, loss)
        report = json.loads((folder / "compression.json").read_text(encoding="utf-8"))
        del report["hashes"], report["sequence_length"]
        (folder / "compression.json").write_text(json.dumps(report), encoding="utf-8")
    found = compare([tmp_path], tmp_path / "out")
    assert [one.label for one in found.compressed[1:]] == [
        "8×112 low rank ½ (two)", "8×112 low rank ½ (one)",
    ]  # fmt: skip
    assert not any(caution.is_serious for caution in found.cautions)


def test_a_damaged_report_is_left_out_by_name(tmp_path):
    write_compressed(tmp_path / "one", LOW_RANK, 4.9)
    write_compressed(tmp_path / "two", WANDA, 4.4, models=[])
    (write_compressed(tmp_path / "three", WANDA, 4.4) / "compression.json").write_text(
        "[", encoding="utf-8"
    )
    found = compare([tmp_path], tmp_path / "out")
    assert sorted(run.folder.name for run in found.left_out) == ["three", "two"]
    assert len(found.compressed) == 2


def test_recovered_runs_stand_beside_compressed_models(tmp_path):
    write_compressed(tmp_path / "models" / "one", LOW_RANK, 4.9)
    recipe = {
        "_target_": "mobilellm.compression.factorization.Factorization", "parts": [],
        "budget": {"ratio": 0.5},
    }  # fmt: skip
    config = {"compression": recipe, "validation_tokens": 8192.0}
    stages = [{"loss_before": 4.2, "loss_after": 4.9, "parameters_before": 10**6}]
    latency = [{"model": "compressed", "prefill_ms": 11.0, "decode_ms_per_token": 2.5}]
    for seed in range(3):
        facts = summary(
            model(), seed=seed, loss=4.4 + 0.01 * seed,
            compression={"stages": stages, "latency": latency},
        )  # fmt: skip
        write_run(tmp_path / "runs" / str(seed), facts, config=config)
    found = compare([tmp_path / "models", tmp_path / "runs"], tmp_path / "out")
    assert [(one.kind, one.label) for one in found.compressed if one.kind != "dense"] == [
        ("recovered", "8×112 low rank ½"), ("compressed", "8×112 low rank ½"),
    ]  # fmt: skip
    recovered = next(one for one in found.compressed if one.kind == "recovered")
    assert recovered.loss == pytest.approx(4.41) and recovered.prefill_ms == 11.0
    assert any("then trained (recovered)" in caution.message for caution in found.cautions)
    printed(found, 80)
