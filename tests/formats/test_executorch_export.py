"""Models that go out as ExecuTorch programs, run by ExecuTorch; compiling takes its time."""

import sys

import pytest
import torch
from test_gguf import make_model
from test_gguf_export import assert_same_continuation
from tiny_tokenizers import make_tokenizer

from mobilellm.evaluation.engines import ExecuTorch, TorchEngine
from mobilellm.formats.executorch import export_executorch

SMALL = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_blocks": 1}


def randomized(**changes):
    model = make_model(**(SMALL | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.dim() == 1))
    return model


@pytest.mark.slow
@torch.no_grad()
def test_executorch_continues_a_text_as_we_do(tmp_path):
    """A shared block and a tied table are in the file once, and stay so."""
    pytest.importorskip("executorch")
    model = randomized(vocab_size=4096, block_repeats=2)
    words = make_tokenizer(tmp_path / "words")
    written = export_executorch(model, tmp_path / "m.pte", words, context=80)
    weights = sum(p.numel() for p in model.parameters())
    assert written.num_weights == weights
    assert weights * 4 < written.file_bytes < weights * 4 * 1.08
    assert written.operators["forward"]["executorch_call_delegate"] == 3
    assert written.cache_bytes == 2 * 2 * 2 * 16 * 80 * 4
    prompt = list(range(3, 70))  # longer than what is read at once
    with ExecuTorch(tmp_path / "m.pte", top=4) as theirs:
        ours = TorchEngine(model, top=4)
        given, wanted = theirs.prefill(prompt), ours.prefill(prompt)
        for token in (5, 6, 7):
            known = wanted.log_probabilities
            assert list(given.log_probabilities) == list(known)
            assert given.log_probabilities[given.token] == pytest.approx(
                known[wanted.token], abs=1e-3
            )
            given, wanted = theirs.decode(token), ours.decode(token)
        assert_same_continuation(ours, theirs, [5, 50, 77], [])
        assert theirs.constant("get_eos_ids") == 2
        assert theirs.constant("get_max_context_len") == 80
        for _ in range(80 - 3 - 63):
            theirs.decode(3)
        with pytest.raises(ValueError, match="the cache has no room for more than 80 tokens; exp"):
            theirs.decode(3)
        with pytest.raises(ValueError, match="81 tokens do not fit into a cache of 80; give at"):
            theirs.prefill([1] * 81)
        with pytest.raises(ValueError, match="0 tokens do not fit"):
            theirs.prefill([])
    with pytest.raises(ValueError, match=r"m.pte exists and is never overwritten; give a new"):
        export_executorch(model, tmp_path / "m.pte")


@pytest.mark.slow
@torch.no_grad()
def test_weights_in_4_bits(tmp_path):
    pytest.importorskip("executorch")
    model = randomized(vocab_size=2048, hidden_size=128, intermediate_size=256)
    written = export_executorch(model, tmp_path / "m.pte", kind="8da4w", context=8)
    body, table = 3 * 128 * 128 + 3 * 128 * 256, 2048 * 128
    expected = 2 * table + body * (4 + 16 / 32) / 8  # in bytes, without the program itself
    assert expected < written.file_bytes < expected + 100_000
    with ExecuTorch(tmp_path / "m.pte", top=2048) as theirs:
        ours = TorchEngine(model, top=2048)
        errors = []
        for token in (5, 50, 77, 200):
            begin = token == 5
            given = theirs.prefill([token]) if begin else theirs.decode(token)
            wanted = ours.prefill([token]) if begin else ours.decode(token)
            known = wanted.log_probabilities
            errors += [known[t] - value for t, value in given.log_probabilities.items()]
    spread = torch.tensor(list(known.values())).std()
    assert 0.001 < torch.tensor(errors).std() / spread < 0.4


def test_what_cannot_be_written_is_refused_before_compiling(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"writing .*m.pte needs the package executorch, which is"):
        export_executorch(make_model(), tmp_path / "m.pte")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: True)
    with pytest.raises(ValueError, match="context=129 must lie between 1 and max_position_emb"):
        export_executorch(make_model(), tmp_path / "m.pte", context=129)
    monkeypatch.setitem(sys.modules, "executorch.runtime", None)
    (tmp_path / "m.pte").write_bytes(b"")
    with pytest.raises(ValueError, match=r"running .*m.pte needs the package executorch, which is"):
        ExecuTorch(tmp_path / "m.pte")
    with pytest.raises(FileNotFoundError, match=r"n.pte does not exist; give a .pte file"):
        ExecuTorch(tmp_path / "n.pte")
