"""Wide sweeps, long names and narrow terminals: nothing is cut, and the rest is summarised."""

import io

import pytest
from rich.console import Console
from simulated_sweep import SHAPES, model, summary, write_run, write_sweep

from mobilellm.report import compare
from mobilellm.report.analysis import MAX_PAIRWISE_GROUPS, analyse, find_baseline
from mobilellm.report.columns import shown_columns
from mobilellm.report.runs import read_runs


def printed(found, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(found)
    return console.file.getvalue()


def fourteen():
    """Wide to deep, some shared, some untied; the losses all different."""
    shapes = {}
    for index, (name, (config, loss)) in enumerate(list(SHAPES.items())[:5]):
        fields = config.to_dict() | {"compressed_layers": {}}
        shapes[name] = (config, loss)
        shapes[f"{name} shared"] = (model(**_size_text(fields), block_repeats=2), loss - 0.03)
        if index < 4:
            untied = model(**_size_text(fields), tie_word_embeddings=False)
            shapes[f"{name} untied"] = (untied, loss + 0.015)
    return shapes


def _size_text(fields):
    return {
        "blocks": fields["num_blocks"], "hidden": fields["hidden_size"],
        "ffn": fields["intermediate_size"], "heads": fields["num_attention_heads"],
        "groups": fields["num_key_value_heads"],
    }  # fmt: skip


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return compare([write_sweep(tmp_path_factory.mktemp("many") / "sweep", fourteen())])


def test_beyond_eight_shapes_each_is_set_against_the_best(many):
    assert len(many.groups) == 14 > MAX_PAIRWISE_GROUPS
    means = {shape.label: shape.interval("val_loss").mean for shape in many.groups}
    assert many.reference == min(means, key=means.get)
    assert len(many.pairs) == 91, "all are corrected for, since the best is known only afterwards"
    text = printed(many, 80)
    assert "Row against column" not in text
    part = text[text.index("Compared with ") :]
    assert part.index("reference") < part.index("+0.")
    order = sorted(means, key=means.get)
    rows = [line for line in part.splitlines() if "×" in line and "±" in line][:13]
    assert [row.split("  ")[0].strip() for row in rows] == order[1:]
    assert "Pairwise comparison" not in many.page.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [80, 100])
def test_no_number_is_cut(many, width):
    text = printed(many, width)
    body = text[: text.index("For reference")]
    assert "…" not in body
    assert max(map(len, body.splitlines())) <= width
    for column in shown_columns(many.groups):
        for shape in many.groups:
            assert column.text(shape) in body


def test_cautions_summarise(tmp_path):
    sweep = write_sweep(tmp_path / "s", fourteen(), seeds=(0, 1))
    found = analyse(read_runs([sweep]), sources=[sweep], folder=tmp_path / "unused")
    (text,) = [c.message for c in found.cautions if c.kind == "seeds"]
    assert text.startswith(
        "fewer than 3 seeds: 14 configurations (2×208, 2×208 untied, …); there is"
    )
    assert max(len(caution.message) for caution in found.cautions) < 400


def test_long_names_go_on_in_the_next_line(without_plots, tmp_path):
    for index in range(6):
        config = {f"a_setting_with_a_long_name_{n}": index * 1000 + n for n in range(3)}
        for seed in range(3):
            facts = summary(model(), seed=seed, loss=4 + index / 10 + seed / 100)
            write_run(tmp_path / "s" / f"{index}{seed}", facts, config=config)
    found = compare([tmp_path / "s"])
    for width in (80, 100):
        text = printed(found, width)
        table = text[: text.index("warning" if "warning" in text else "note")]
        assert max(map(len, table.splitlines())) <= width and "…" not in table
        for shape in found.groups:
            assert f"{shape.interval('val_loss').mean:.3f} ± " in table
        for pair in found.pairs:
            assert f"{pair.difference.mean:+.3f}" in table


def test_a_baseline_has_its_own_family_of_tests(without_plots, tmp_path):
    sweep = write_sweep(tmp_path / "s")
    found = compare([sweep], tmp_path / "out", baseline="8×112")
    assert found.reference == "8×112" and len(found.pairs) == 5
    assert {pair.second for pair in found.pairs} == {"8×112"}
    assert found.verdict.startswith("Against the baseline 8×112 (4.2")
    assert "corrected for 5 pairs" in printed(found, 100).replace("\n", " ")
    assert find_baseline(found.groups, "8×112,seed=1") == "8×112", "by a run's folder"


def test_a_baseline_that_is_none_of_the_shapes(tmp_path):
    sweep = write_sweep(tmp_path / "s", {"a": SHAPES["2×208"], "b": SHAPES["24×64"]})
    with pytest.raises(
        ValueError, match=r"--baseline '9×9' is not one of the configurations; use .*'24×64'"
    ):
        compare([sweep], baseline="9×9")
    assert not (sweep / "comparison").exists()


def test_names_are_no_formulas_and_no_markup(tmp_path):
    for index, name in enumerate(["a$b_{$c", r"d$\x$[red]y"]):
        for seed in range(3):
            facts = summary(model(), seed=seed, loss=4 + index, experiment=r"e$\frac$")
            config = {"init_layers": name, "data": {"tasks": [name]}}
            write_run(tmp_path / "s" / f"{index}{seed}", facts, config=config)
    found = compare([tmp_path / "s"])
    assert r"d$\x$[red]y" in printed(found, 120) and "$b_{$c" in found.page.read_text(
        encoding="utf-8"
    )
    assert r"E$\frac$" in printed(found, 120)


def test_two_validations_are_a_line(tmp_path):
    """An interval beyond the budget leaves the loss at the start and at the end."""
    sweep = write_sweep(tmp_path / "s", {"a": SHAPES["2×208"], "b": SHAPES["24×64"]})
    for file in sweep.glob("*/metrics.csv"):
        lines = file.read_text(encoding="utf-8").splitlines()
        last = next(line for line in reversed(lines) if line.split(",")[4])
        file.write_text(f"{lines[0]}\n0,0,0.0,,7.6,3.5,,,\n{last}\n", encoding="utf-8")
    from mobilellm.report.training_plots import against_tokens

    figure = against_tokens(compare([sweep]))
    for axes in figure.axes:
        left, right = axes.get_xlim()
        drawn = [line for line in axes.lines if len(line.get_xdata()) == 2]
        assert len(drawn) >= 2
        for line in drawn[:2]:
            inside = [left <= x <= right for x in line.get_xdata()]
            assert any(inside) and line.get_marker() == "o"
    assert figure.axes[0].get_xscale() == "linear"


def test_costs_that_are_all_equal_are_not_drawn(tmp_path):
    for index in range(2):
        for seed in range(3):
            facts = summary(model(), seed=seed, loss=4 + index + seed / 100)
            write_run(tmp_path / "s" / f"{index}{seed}", facts, config={"arm": index})
    found = compare([tmp_path / "s"])
    drawn = {path.stem for path in found.folder.glob("*.png")}
    assert drawn == {"loss_against_tokens", "loss_against_flops", "loss_against_time"}
    assert "from wide" not in found.page.read_text(encoding="utf-8")
