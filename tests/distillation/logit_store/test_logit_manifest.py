"""The manifest of a logit store: what it says, and how damaged ones are named."""

import json

import numpy as np
import pytest
from small_logit_store import BELONGS, SEQUENCE, WINDOWS, K, inputs, logits

from mobilellm.distillation.logit_store.store import LogitStore


def test_what_the_manifest_says(store):
    manifest = json.loads((store.folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["bytes_per_token"] == 4 * K
    assert manifest["num_tokens"] == WINDOWS * SEQUENCE
    assert manifest["bytes"] == WINDOWS * SEQUENCE * 4 * K
    assert manifest["bytes"] == sum(path.stat().st_size for path in store.folder.glob("*.logits"))
    mass = (logits() / 2).double().softmax(-1).topk(K).values.sum(-1).flatten().numpy()
    assert manifest["captured_mass"]["mean"] == pytest.approx(mass.mean(), abs=1e-3)
    lowest = np.percentile(mass, 5, method="inverted_cdf")
    assert manifest["captured_mass"]["percentile_5"] == pytest.approx(lowest, abs=2e-3)
    assert {*BELONGS} < {*manifest["inputs"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0 must be positive"),
        ({"num_windows": 0}, "num_windows=0 must be at least 1"),
        ({"k": 301}, "k=301 must be at most vocab_size=300"),
    ],
)
def test_inputs_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        inputs(**change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"format": "mobilellm-logits", "version": 0}',
            "has version 0, but this program reads 1",
        ),
        ("{", "manifest.json is damaged"),
        ("[" * 100_000, "manifest.json is damaged"),
        ('{"format": "mobilellm-logits", "version": 1}', "is damaged .inputs is missing.; remove"),
    ],
)
def test_a_manifest_that_cannot_be_read(store, text, message):
    (store.folder / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        LogitStore(store.folder)


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (["inputs", "k"], None, r"inputs.k is missing"),
        (["inputs", "k"], "many", r'inputs.k is "many"'),
        (["inputs", "k"], 0, r"k=0 must"),
        (["inputs", "document_mask"], 0, r"inputs.document_mask is 0"),
        (["inputs", "colour"], "red", r"inputs.colour is not known"),
        (["shards"], None, r"shards is missing"),
        (["shards", 0, "bytes"], None, r"shards\[0\].bytes is missing"),
        (["shards"], [], r"0 shards"),
        (["captured_mass", "mean"], None, r"captured_mass.mean is missing"),
    ],
)
def test_damaged_fields_of_a_manifest(store, path, value, fault):
    file = store.folder / "manifest.json"
    whole = file.read_text(encoding="utf-8")
    record = json.loads(whole)
    *parents, last = path
    place = record
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    file.write_text(json.dumps(record), encoding="utf-8")
    try:
        with pytest.raises(ValueError, match=rf"manifest.json is damaged \({fault}.*\); remove it"):
            LogitStore(store.folder)
    finally:
        file.write_text(whole, encoding="utf-8")
