"""The example notebook runs from the first cell to the last, on a sweep like that of the demo."""

import ast
import json
from pathlib import Path

import pytest
from simulated_sweep import write_sweep

NOTEBOOK = Path(__file__).parents[2] / "docs/examples/comparing_shapes.ipynb"


@pytest.fixture(scope="module")
def cells():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def run_cell(source, names):
    """Execute a cell; the value of its last line, as a notebook shows it."""
    tree = ast.parse(source)
    *_, last = tree.body
    if not isinstance(last, ast.Expr):
        exec(compile(tree, NOTEBOOK.name, "exec"), names)
        return None
    exec(compile(ast.Module(tree.body[:-1], []), NOTEBOOK.name, "exec"), names)
    return eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names)


def test_all_cells_run(cells, tmp_path, monkeypatch, capsys):
    write_sweep(tmp_path / "outputs/demo")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "notebook"}
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    shown = [run_cell(source, names) for source in code]
    assert len(shown) == 8
    assert shown[0][0].startswith("Deepest against widest: 24×64 is better than 2×208 by 0.")
    assert shown[1].shape == (6, 3) and len(shown[2]) == 15
    assert shown[4][3] > shown[4][10] > 0 and shown[5][0.1] == 3 < shown[5][0.01]
    assert shown[6]["better"] + shown[6]["worse"] + shown[6].get("equivalent", 0) <= 15
    assert capsys.readouterr().out.count(r"\begin{tabular}") == 2
    assert {path.name for path in (tmp_path / "comparison").iterdir()} >= {"pairs.csv"}


def test_the_notebook_is_stored_without_outputs(cells):
    for cell in cells:
        assert cell["cell_type"] == "markdown" or (
            cell["outputs"] == [] and cell["execution_count"] is None
        )
