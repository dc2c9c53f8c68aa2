"""A comparison as a data frame and as a LaTeX table."""

import csv
import subprocess
import sys

import pytest
from simulated_sweep import SHAPES, write_sweep

import mobilellm
from mobilellm.report.latex import latex_text


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return mobilellm.compare([write_sweep(tmp_path_factory.mktemp("notebook") / "sweep")])


def test_the_data_frame_has_the_rows_and_columns_of_the_csv(comparison):
    frame = comparison.to_pandas()
    with (comparison.folder / "comparison.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [*frame.columns, "reason"] == list(rows[0])
    assert len(frame) == len(rows) == 18
    assert frame["val_loss"].tolist() == [float(row["val_loss"]) for row in rows]
    means = frame.groupby("shape")["val_loss"].mean()
    for group in comparison.groups:
        assert means[group.label] == pytest.approx(group.interval("val_loss").mean)


def test_the_latex_table_is_a_tabular_of_booktabs(comparison):
    lines = comparison.to_latex().splitlines()
    columns = lines[0].removeprefix(r"\begin{tabular}{l").removesuffix("}")
    assert set(columns) == {"r"}
    assert (lines[1], lines[3], lines[-2:]) == (
        r"\toprule", r"\midrule", [r"\bottomrule", r"\end{tabular}"]
    )  # fmt: skip
    rows = [lines[2], *lines[4:-2]]
    assert len(rows) == 1 + len(SHAPES)
    assert all(row.endswith(r" \\") and row.count(" & ") == len(columns) for row in rows)
    assert rows[0].startswith(r"configuration & stored & ")
    assert any(row.startswith(r"8$\times$112 shared $\times$2 & ") for row in rows)
    assert r"4.309 $\pm$ 0.024" in "".join(rows)
    assert "".join(rows).isascii()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b & 50 %", r"a\_b \& 50 \%"),
        ("$x^{2}$ #1 ~", r"\$x\textasciicircum{}\{2\}\$ \#1 \textasciitilde{}"),
        ("\\input", r"\textbackslash{}input"),
        ("−0.1 ± ½", r"$-$0.1 $\pm$ $\frac{1}{2}$"),
    ],
)
def test_special_characters_are_escaped(text, expected):
    assert latex_text(text) == expected


def test_comparing_does_not_import_pandas():
    code = "import sys, mobilellm.report; print('pandas' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert done.stdout.strip() == "False"


def test_pairs_are_a_data_frame_a_csv_file_and_a_latex_table(comparison):
    frame = comparison.to_pandas(pairs=True)
    with (comparison.folder / "pairs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(frame.columns) == list(rows[0]) and len(frame) == len(rows) == 15
    for pair, row in zip(comparison.pairs, rows, strict=True):
        assert (row["first"], row["second"], row["verdict"]) == (
            pair.first, pair.second, pair.verdict
        )  # fmt: skip
        half = (float(row["high"]) - float(row["low"])) / 2
        assert half == pytest.approx(pair.difference.half_width)
    lines = comparison.to_latex(pairs=True).splitlines()
    assert lines[0] == r"\begin{tabular}{llrlrr}"
    assert lines[2] == r"first & second & difference & verdict & corrected p & seeds \\"
    assert len(lines) == 15 + 6 and all(line.count(" & ") == 5 for line in lines[4:-2])


def test_one_configuration_has_no_pairs(tmp_path):
    sweep = write_sweep(tmp_path, {"a": SHAPES["2×208"]})
    found = mobilellm.compare([sweep])
    assert found.to_pandas(pairs=True).empty
    with pytest.raises(ValueError, match="there are no pairs to tabulate; compare at least two"):
        found.to_latex(pairs=True)
