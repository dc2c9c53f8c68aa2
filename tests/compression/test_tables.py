"""What compression tells people, in 80 columns."""

import io

import pytest
from rich.console import Console

from mobilellm.compression.plan import LayerPlan, LayerwisePlan
from mobilellm.compression.structured_plan import StructuredPlan
from mobilellm.compression.tables import results_table
from mobilellm.layers.factorized import FactorizedShape
from mobilellm.layers.masked import MaskedShape
from mobilellm.layers.part_shape import low_rank_shape

KINDS = {
    "attention.q_proj": (576, 576), "attention.k_proj": (192, 576), "attention.o_proj": (576, 576),
    "feed_forward.gate_proj": (1536, 576), "feed_forward.down_proj": (576, 1536),
}  # fmt: skip


def printed(table, width=80):
    buffer = io.StringIO()
    Console(file=buffer, width=width).print(table)
    lines = buffer.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    assert not any("…" in line for line in lines)
    return lines


def plan_of(num_blocks, shape_of):
    return LayerwisePlan(layers=tuple(
        LayerPlan(name=f"blocks.{b}.{kind}", size=size, shape=shape_of(b, size),
                  expected_error=b / 99)
        for b in range(num_blocks) for kind, size in KINDS.items()
    ))  # fmt: skip


def low_rank(block, size):
    return FactorizedShape(parts=(low_rank_shape(*size, 40 + block),))


def mixed(block, size):
    rows, columns = size
    product = {"left": (rows // 4, columns // 8), "right": (4, 8), "num_terms": 2}
    return FactorizedShape(parts=(low_rank_shape(rows, columns, 40 + block), product))


def masked(_, size):
    return MaskedShape(nonzero=size[0] * size[1] // 2)


@pytest.mark.parametrize("shape_of", [low_rank, mixed, masked])
@pytest.mark.parametrize("num_blocks", [2, 30])
def test_a_plan_has_totals_first_and_few_rows(num_blocks, shape_of):
    plan = plan_of(num_blocks, shape_of)
    lines = printed(plan.table())
    rows = [line for line in lines if "%" in line]
    assert rows[0].split()[0] == "all"
    assert f"{5 * num_blocks} matrices" in lines[0]
    assert len(rows) == 1 + (5 if num_blocks == 30 else 10)
    dense = sum(layer.size[0] * layer.size[1] for layer in plan.layers)
    stored = sum(layer.nonzero for layer in plan.layers)
    assert f"{stored / dense:.1%}" in rows[0]
    assert f"{dense:,} weights, {stored:,} numbers kept" in lines[0]
    if num_blocks == 30:
        assert rows[1].split()[:2] == ["30", "q_proj"]
        assert "0.000-0.293" in rows[1]
    if shape_of is masked:
        assert all(" 50.0% " in row and " 100.0% " in row for row in rows)
    if shape_of is low_rank and num_blocks == 30:
        assert "rank 40-69" in rows[1]
    assert type(plan).from_dict(plan.to_dict()) == plan


@pytest.mark.parametrize("num_blocks", [4, 40])
def test_a_structured_plan_has_few_rows(num_blocks):
    plan = StructuredPlan(
        blocks=range(num_blocks), heads=[[0, 2]] * num_blocks,
        channels=[list(range(b % 3 + 1)) for b in range(num_blocks)],
    )  # fmt: skip
    lines = printed(plan.table())
    assert len(lines) < 12
    assert f"{num_blocks} blocks kept" in lines[0]
    assert type(plan).from_dict(plan.to_dict()) == plan


def test_results_stand_side_by_side():
    counts = {"stored": 135_000_000, "embedding": 28_000_000, "body": 107_000_000,
              "executed": 135_000_000}  # fmt: skip
    rows = [
        {"model": "given, factorised and masked", "parameters": counts, "loss": 3.25,
         "disk_bytes": 540e6, "peak_memory_bytes": 612.3e6, "prefill_ms": 123.4,
         "decode_ms_per_token": 12.34},
        {"model": "compressed", "parameters": counts | {"nonzero": 67_500_000}, "loss": 3.5,
         "disk_bytes": 287e6, "peak_memory_bytes": 612.3e6, "prefill_ms": 123.4,
         "decode_ms_per_token": 12.34},
    ]  # fmt: skip
    lines = {line[:24].strip(): line.split()[-2:] for line in printed(results_table(rows)) if line}
    assert lines["kept"] == ["100.0%", "50.0%"]
    assert lines["on disk, MB"] == ["540.000", "287.000"]
    assert lines["peak memory, MB"] == ["612.3", "612.3"]
    assert lines["nonzero parameters"][-1] == "67,500,000"
    assert list(lines).index("kept") < list(lines).index("stored parameters")
