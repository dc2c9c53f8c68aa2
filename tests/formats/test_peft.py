"""Adapters in PEFT's form against PEFT itself, on the model that `transformers` loads."""

import json

import pytest
import torch

from mobilellm.adapters import Adapter
from mobilellm.checkpoint import load_model
from mobilellm.commands.import_ import run
from mobilellm.formats.huggingface import export_huggingface, import_huggingface
from mobilellm.formats.peft import read_peft, read_peft_settings, write_peft
from mobilellm.models import MobileLLM, ModelConfig

SHAPE = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_blocks": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
IDS = torch.arange(30).reshape(2, 15)


def adapted(repeats=1, targets=("blocks.*", "head"), **settings):
    """A model with an adapter that changes it."""
    torch.manual_seed(5)
    base = MobileLLM(ModelConfig(**SHAPE, block_repeats=repeats, tie_word_embeddings=False))
    for parameter in base.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    chosen = Adapter(rank=3, alpha=6, targets=targets, **settings)
    model = chosen.adapt(MobileLLM(base.config), seed=0)
    state = base.state_dict()
    for name, parameter in model.named_parameters():
        if ".base." in name:
            parameter.data.copy_(state[name.replace(".base.", ".")])
        elif name in state:
            parameter.data.copy_(state[name])
    for name, parameter in model.named_parameters():
        if name.endswith("lora_b"):
            torch.nn.init.normal_(parameter, std=0.3)
        if name.endswith("magnitude"):
            torch.nn.init.uniform_(parameter, 0.1, 0.3)
    return base, model.eval()


@pytest.mark.parametrize(
    "settings", [{}, {"dora": True}, {"rslora": True, "repeats": 2}, {"targets": ["*.q_proj"]}]
)
def test_peft_computes_what_the_adapted_model_does(settings, tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base, model = adapted(**settings)
    export_huggingface(base, tmp_path / "base")
    write_peft(model, tmp_path / "adapter", base=str(tmp_path / "base"))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    loaded = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(loaded(IDS).logits, base(IDS).logits, atol=1e-2)


def test_what_peft_saves_is_where_training_begins(tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base, _ = adapted()
    export_huggingface(base, tmp_path / "base")
    settings = peft.LoraConfig(r=4, lora_alpha=12, use_dora=True, task_type="CAUSAL_LM",
                               target_modules=["q_proj", "down_proj"])  # fmt: skip
    theirs = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), settings
    ).eval()
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path / "adapter")
    same = Adapter(rank=4, alpha=12, dora=True, targets=["*.q_proj", "*.down_proj"],
                   initial=str(tmp_path / "adapter"))  # fmt: skip
    model = same.adapt(import_huggingface(tmp_path / "base"), seed=0).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, theirs(IDS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dora", [False, True])
def test_an_imported_adapter_is_part_of_the_weights(dora, tmp_path, capsys):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base, model = adapted(dora=dora)
    export_huggingface(base, tmp_path / "base")
    write_peft(model, tmp_path / "adapter", base=str(tmp_path / "base"))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    loaded = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").merge_and_unload().eval()
    run([str(tmp_path / "adapter"), "--out", str(tmp_path / "merged")])
    ours = load_model(tmp_path / "merged").eval()
    assert not ours.config.layer_shapes
    assert f"{sum(p.numel() for p in base.parameters()):,} parameters" in capsys.readouterr().out
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS).logits, loaded(IDS).logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours(IDS).logits, model(IDS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("stored", torch.bfloat16), ("float32", torch.float32)]
)
def test_a_model_with_an_adapter_keeps_its_stored_type_if_asked(dtype, expected, tmp_path):
    base, model = adapted()
    export_huggingface(base.to(torch.bfloat16), tmp_path / "base")
    write_peft(model, tmp_path / "adapter", base=str(tmp_path / "base"))
    run([str(tmp_path / "adapter"), "--out", str(tmp_path / "merged"), "--dtype", dtype])
    merged = load_model(tmp_path / "merged").eval()
    assert {parameter.dtype for parameter in merged.parameters()} == {expected}
    with torch.no_grad():
        difference = merged.float()(IDS).logits - model(IDS).logits
    assert difference.abs().max() < 0.1


def test_the_model_of_an_adapter_must_be_known(tmp_path):
    base, model = adapted()
    write_peft(model, tmp_path / "adapter", base="owner/name")
    out = ["--out", str(tmp_path / "merged")]
    with pytest.raises(ValueError, match=r"names 'owner/name' as the model .* give .* --base"):
        run([str(tmp_path / "adapter"), *out])
    export_huggingface(base, tmp_path / "base")
    with pytest.raises(ValueError, match=r"has no adapter_config\.json; leave --base out"):
        run([str(tmp_path / "base"), "--base", str(tmp_path / "base"), *out])
    run([str(tmp_path / "adapter"), "--base", str(tmp_path / "base"), *out])
    assert load_model(tmp_path / "merged").config.num_blocks == 2


def test_reading_is_the_inverse_of_writing(tmp_path):
    _, model = adapted(repeats=2, dora=True)
    write_peft(model, tmp_path)
    assert read_peft_settings(tmp_path) == next(iter(model.config.layer_shapes.values())).adapted
    found = read_peft(tmp_path, model.config)
    assert found.keys() == model.config.layer_shapes.keys()
    for name, parts in found.items():
        for part, tensor in parts.items():
            assert torch.equal(tensor, getattr(model.get_submodule(name), part))


@pytest.mark.parametrize("start", [True, "gaussian", "pissa", "olora"])
def test_an_adapter_that_changes_the_model_itself_is_refused(start, tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base, _ = adapted()
    export_huggingface(base, tmp_path / "base")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    settings = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "down_proj"],
                               init_lora_weights=start, task_type="CAUSAL_LM")  # fmt: skip
    theirs = peft.get_peft_model(theirs, settings).eval()
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path / "adapter")
    command = [str(tmp_path / "adapter"), "--base", str(tmp_path / "base")]
    if start in ("pissa", "olora"):
        with pytest.raises(ValueError, match=rf"with init_lora_weights='{start}', PEFT changes"):
            run([*command, "--out", str(tmp_path / "merged")])
        return
    run([*command, "--out", str(tmp_path / "merged")])
    with torch.no_grad():
        ours = load_model(tmp_path / "merged").eval()(IDS).logits
        torch.testing.assert_close(ours, theirs(IDS).logits, rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused(tmp_path):
    _, model = adapted()
    write_peft(model, tmp_path)
    given = {"rank": 3, "alpha": 6, "initial": str(tmp_path)}
    plain = ModelConfig(**SHAPE, tie_word_embeddings=False)
    with pytest.raises(ValueError, match=r"is LoRA of rank 3, alpha 6, but .* use rank=3 alpha=6"):
        Adapter(**given | {"alpha": 7}).configured(plain)
    with pytest.raises(ValueError, match="only the initial adapter has blocks"):
        Adapter(**given, targets=["*.q_proj", "head"]).adapt(MobileLLM(plain), seed=0)
    with pytest.raises(FileNotFoundError, match="give the folder of an adapter"):
        Adapter(**given | {"initial": str(tmp_path / "no")}).configured(plain)
    with pytest.raises(ValueError, match="belongs to no matrix"):
        read_peft(tmp_path, ModelConfig(**SHAPE | {"num_blocks": 1}))
    values = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    (tmp_path / "adapter_config.json").write_text(json.dumps(values | {"bias": "all"}), "utf-8")
    with pytest.raises(ValueError, match="bias='all' is not supported"):
        read_peft_settings(tmp_path)
    (tmp_path / "adapter_config.json").write_text(
        json.dumps(values | {"alora_invocation_tokens": [3]}), "utf-8"
    )
    with pytest.raises(ValueError, match=r"alora_invocation_tokens=\[3\] is not supported"):
        read_peft_settings(tmp_path)
    _, quantized = adapted(quantized={"bits": 8, "group": 8})
    with pytest.raises(ValueError, match="is not dense without its adapter"):
        write_peft(quantized, tmp_path / "new")
    assert not (tmp_path / "new").exists()
