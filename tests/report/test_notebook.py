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
