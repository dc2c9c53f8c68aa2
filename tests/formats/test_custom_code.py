"""Hugging Face folders with a modelling file of their own."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_compressed_export import KINDS, TABLE, largest_difference, make_ids, make_model

from mobilellm.formats.huggingface import export_huggingface, import_huggingface
from mobilellm.formats.huggingface.custom_code import modelling_files

FACTORS = {"attention_multiplier": 1.5, "residual_multiplier": 0.7, "output_multiplier": 2.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 2.0, "high_freq_factor": 3.0,
          "original_max_position_embeddings": 32}  # fmt: skip
# Heads are grouped and blocks shared in all of them.
MODELS = {
    "factorised": ({"layers": KINDS["factorised"], "layer_sharing": "reverse"}),
    "tied table": ({"layers": KINDS["tied table"], "share_kv": "first"}),
    "pivoted": ({"layers": KINDS["pivoted"], "layer_sharing": "reverse"}),
    "untied": ({"layers": {"head": TABLE}, "tie_word_embeddings": False, **FACTORS}),
    "qk-norm": ({"qk_norm": "rms", "rope_scaling": LLAMA3}),
    "relu": ({"qk_norm": "l2", "feed_forward": "relu"}),
}
ROUNDING = 5e-5
"""How far equal models may be apart in float32, which depends on the processor."""
GREEDY = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Load a folder as users do, with the copies of its code in a temporary place."""
    transformers = pytest.importorskip("transformers")
    cache = str(tmp_path_factory.mktemp("modules"))
    patch = pytest.MonkeyPatch()
    patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", cache)

    def from_pretrained(folder):
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=True, output_loading_info=True
        )

    yield from_pretrained
    patch.undo()
    sys.modules.pop("transformers_modules", None)  # its path is that of the temporary place


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_it_loads_generates_and_comes_in_again(name, load, tmp_path):
    ours = make_model(**MODELS[name])
    export_huggingface(ours, tmp_path / name, custom_code=True)
    theirs, report = load(tmp_path / name)
    assert not any(report.values()), report
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters())
    assert largest_difference(ours, theirs) < ROUNDING
    again = import_huggingface(tmp_path / name)
    assert again.config == ours.config
    assert largest_difference(ours, again) == 0
    ids = make_ids()
    continued = theirs.generate(ids, **GREEDY)
    wanted = ids
    for _ in range(12):
        wanted = torch.cat((wanted, ours(wanted).logits[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(continued, wanted)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    padded = theirs(ids, attention_mask=mask).logits
    same = ours(ids, attention_mask=mask.bool()).logits
    torch.testing.assert_close(padded[:, 4:], same[:, 4:], atol=ROUNDING, rtol=ROUNDING)


def test_loss_hidden_states_and_masked_matrices(load, tmp_path):
    ours = make_model(KINDS["masked"]).bfloat16()
    export_huggingface(ours, tmp_path / "masked", custom_code=True)
    theirs, _ = load(tmp_path / "masked")
    assert theirs.dtype == torch.bfloat16
    theirs = theirs.float()
    assert theirs.embedding.weight.count_nonzero() == 900
    ids = make_ids()
    output = theirs(ids, labels=ids, output_hidden_states=True, logits_to_keep=0)
    expected = torch.nn.functional.cross_entropy(
        output.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    )
    torch.testing.assert_close(output.loss, expected)
    assert len(output.hidden_states) == ours.config.num_layers + 1
    kept = theirs(ids, logits_to_keep=2).logits
    torch.testing.assert_close(kept, output.logits[:, -2:])
    with pytest.raises(ValueError, match="output_attentions is not supported; leave it out"):
        theirs(ids, output_attentions=True)


def test_the_modelling_files_need_torch_and_transformers_only(tmp_path):
    allowed = {"typing", "torch", "transformers"}
    for name, content in modelling_files().items():
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed
            elif isinstance(node, ast.ImportFrom):
                is_other = node.level == 1 and f"{node.module}.py" in modelling_files()
                assert is_other or node.module.split(".")[0] in allowed, name


def test_a_config_that_was_changed_is_refused(tmp_path):
    export_huggingface(make_model(), tmp_path / "out", custom_code=True)
    path = tmp_path / "out/config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    for model, message in (
        (values["model"] | {"layer_order": [0, 1]}, r"layer_order=\[0, 1\] is not that of layer_"),
        (values["model"] | {"hidden": 3}, "config.json: model field='hidden' is not known; use"),
        (None, '"model" must be an object with the architecture; export'),
    ):
        path.write_text(json.dumps(values | {"model": model}), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            import_huggingface(tmp_path / "out")


@pytest.mark.slow
def test_it_runs_where_the_project_is_not_installed(tmp_path):
    pytest.importorskip("transformers")
    model = make_model(KINDS["factorised"])
    export_huggingface(model, tmp_path / "out", custom_code=True)
    code = (
        "import sys; sys.modules['mobilellm'] = None\n"
        "import torch\nfrom transformers import AutoModelForCausalLM\n"
        "model = AutoModelForCausalLM.from_pretrained('out', trust_remote_code=True)\n"
        "print(model(torch.tensor([[1, 2, 3]])).logits.sum().item())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False, timeout=120,
        encoding="utf-8", env={"HF_MODULES_CACHE": f"{tmp_path}/modules", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    wanted = model(torch.tensor([[1, 2, 3]])).logits.sum().item()
    assert float(done.stdout) == pytest.approx(wanted, abs=1e-3)


def test_the_modelling_files_are_part_of_the_package():
    text = Path(__file__).parents[2].joinpath("pyproject.toml").read_text(encoding="utf-8")
    assert '"formats/huggingface/templates/*.py"' in text
    assert set(modelling_files()) == {"factorized_mobilellm.py", "modeling_mobilellm.py"}
