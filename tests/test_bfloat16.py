"""Where products in bfloat16 are fast, with the answers of torch for other devices."""

import pytest
import torch

from mobilellm.bfloat16 import multiplies_bfloat16


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, False),
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"amx_bf16": True}, True),
    ],
)
def test_a_cpu_is_asked_for_its_instructions(capabilities, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert multiplies_bfloat16(torch.device("cpu")) is expected


def test_emulation_on_a_gpu_does_not_count(monkeypatch):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    assert not multiplies_bfloat16(torch.device("cuda"))


def test_without_an_answer_of_torch_products_are_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not multiplies_bfloat16(torch.device("cpu"))
