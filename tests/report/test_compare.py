"""The files of a comparison, its terminal output, and the script."""

import csv
import io
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from command_process import run_command
from rich.console import Console
from simulated_sweep import SHAPES, model, summary, write_run, write_sweep

from mobilellm.report import compare

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare.py"
COSTS = ("depth", "tokens", "flops", "time", "parameters", "decode_bytes")
PLOTS = {"decision_accuracy.png", *(f"loss_against_{name}.png" for name in COSTS)}


class Balanced(HTMLParser):
    """Collects tags that are closed in the wrong order, and every address."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self):
        super().__init__()
        self.open, self.wrong, self.addresses, self.ids = [], [], [], []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.addresses += [found[name] for name in ("src", "href", "xlink:href") if name in found]
        self.ids += [found["id"]] if "id" in found else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = write_sweep(tmp_path_factory.mktemp("report") / "sweep")
    facts = summary(model(), status="failed", error="RuntimeError: <out of [memory]>")
    write_run(folder / "lost", facts)
    return folder


@pytest.fixture(scope="module")
def comparison(sweep):
    return compare([sweep])


def printed(found, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(found)
    return console.file.getvalue()


def test_the_default_folder_and_its_files(comparison, sweep):
    assert comparison.page == sweep / "comparison" / "index.html"
    assert {path.name for path in (sweep / "comparison").iterdir()} == {
        "comparison.csv", "comparison.json", "index.html", "pairs.csv", *PLOTS
    }  # fmt: skip


def test_csv_has_a_row_a_run(comparison):
    rows = list(csv.DictReader((comparison.folder / "comparison.csv").open(encoding="utf-8")))
    assert len(rows) == 19
    assert {row["status"] for row in rows} == {"finished", "failed"}
    facts = json.loads((Path(rows[0]["folder"]) / "summary.json").read_text(encoding="utf-8"))
    assert float(rows[0]["val_loss"]) == facts["val_loss"]
    assert int(rows[0]["body_parameters"]) == facts["parameters"]["body"]
    assert rows[0]["git.commit"] == facts["git"]["commit"]
    assert rows[-1]["reason"] == "RuntimeError: <out of [memory]>"


def test_json_has_everything(comparison):
    text = (comparison.folder / "comparison.json").read_text(encoding="utf-8")
    record = json.loads(text, parse_constant=pytest.fail)
    assert record["verdict"] == comparison.verdict and record["metric"] == "val_loss"
    assert len(record["shapes"]) == 6 and len(record["pairs"]) == 15 and len(record["runs"]) == 18
    pair = record["pairs"][0]
    nats, bits = pair["difference_nats_per_token"], pair["difference_bits_per_byte"]
    assert bits["mean"] == pytest.approx(nats["mean"] / 3.1 / math.log(2))
    assert [caution["kind"] for caution in record["cautions"]] == ["architecture"]


def test_the_page_is_well_formed_and_needs_nothing(comparison):
    page = comparison.page.read_text(encoding="utf-8")
    parser = Balanced()
    parser.feed(page)
    assert parser.open == [] and parser.wrong == []
    assert len(parser.ids) == len(set(parser.ids))
    local = [address for address in parser.addresses if not address.startswith(("#", "data:"))]
    assert sorted(local) == sorted(PLOTS)
    used = set(re.findall(r"url\(#([^)]+)\)", page))
    assert used <= set(parser.ids)
    assert "@import" not in page and "<link" not in page and "src=" not in page


def test_the_page_says_what_matters(comparison):
    page = comparison.page.read_text(encoding="utf-8")
    assert page.index(comparison.verdict.split(" by ")[0]) < page.index("<table")
    for text in (
        "The runs are too short to settle the question",
        "unigram model 6.310 and bigram model 4.620 nats per token",
        "RuntimeError: &lt;out of [memory]&gt;",
        "AMD EPYC 9B14",
        "0123456789abcdef0123456789abcdef01234567",
        "python scripts/train.py -m experiment=depth_vs_width",
        "8×112 shared ×2: 0.002 (tried 0.001, 0.002 and 0.004)",
        "validation loss (nats per token)",
        "depth (layers run per token, logarithmic axis)",
    ):
        assert text in page, text


def test_the_page_and_the_record_say_what_the_recipe_rule_chose(without_plots, tmp_path):
    chosen = {"tokens_per_step": 2048, "optimizer.learning_rate": 0.002}
    facts = {"learning_rates_tried": None, "chosen_by_rule": chosen}
    comparison = compare([write_sweep(tmp_path / "sweep", **facts)])
    page = comparison.page.read_text(encoding="utf-8")
    assert "8×112: 0.002 (chosen by the recipe rule)" in page
    assert "2.05k tokens per optimizer step; 256 tokens per window; the recipe rule chose" in page
    record = json.loads((comparison.folder / "comparison.json").read_text(encoding="utf-8"))
    assert [shape["chosen_by_rule"] for shape in record["shapes"]] == [chosen] * len(SHAPES)


def test_plots_have_pictures_of_a_readable_size(comparison):
    for name in PLOTS:
        data = (comparison.folder / name).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
        assert width >= 900 and height >= 500


def test_wide_terminal(comparison):
    text = printed(comparison, 160)
    (head,) = [line for line in text.splitlines() if "stored" in line and "embed." in line]
    for name in ("executed", "FLOPs/tok", "tokens", "loss", "bits/byte", "tok/s", "memory"):
        assert name in head
    assert "left out: lost (failed): RuntimeError: <out of [memory]>" in text
    assert text.rstrip().endswith(str(comparison.page.resolve()))
    assert comparison.verdict in text


def test_narrow_terminal(comparison):
    text = printed(comparison, 80)
    heads = [
        line for line in text.splitlines() if line.startswith((" configuration", "configuration"))
    ]
    assert len(heads) == 2 and "memory" in heads[1]
    assert not any("…" in line for line in text.splitlines() if "×" in line and "±" in line)


def test_an_earlier_report_is_overwritten_and_nothing_else(without_plots, sweep, tmp_path):
    earlier = compare([sweep], tmp_path / "report")
    assert compare([sweep], earlier.folder).page == earlier.page
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="is in use and is never overwritten; give a new"):
        compare([sweep], tmp_path)
    with pytest.raises(
        ValueError, match=r"out=.*notes.txt is a file, not a folder; give another path"
    ):
        compare([sweep], tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "report"}


def test_no_folder_given():
    with pytest.raises(ValueError, match="no folder given; give run or sweep folders"):
        compare([])


def test_nothing_is_written_where_nothing_is_found(tmp_path):
    with pytest.raises(ValueError, match="no run found"):
        compare([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_run_without_curves(tmp_path):
    folder = write_run(tmp_path / "run", summary(model(), decode_bytes_per_token=None))
    (folder / "metrics.csv").unlink()
    found = compare([folder])
    assert found.verdict.startswith("Only one configuration")
    assert not list(found.folder.glob("*.png"))
    printed(found, 100)


def test_many_shapes_and_losses_by_bits_per_byte(tmp_path):
    """Another tokenizer: curves and marks are drawn in bits per byte."""
    write_sweep(tmp_path / "a", {"2×208": SHAPES["2×208"]})
    hashes = {"data": "d" * 64, "tokenizer": "y", "train": "z", "validation": "w"}
    write_sweep(tmp_path / "b", {"24×64": SHAPES["24×64"]}, hashes=hashes)
    page = compare([tmp_path / "a", tmp_path / "b"], tmp_path / "out").page.read_text(
        encoding="utf-8"
    )
    assert "validation loss (bits per byte)" in page and "(nats per token)</text>" not in page


def test_script(sweep, tmp_path):
    arguments = [sweep, "--out", tmp_path / "o", "--title", "A < B"]
    done = run_command("compare", *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"Report: {tmp_path / 'o' / 'index.html'}" in done.stdout
    assert "<h1>A &lt; B</h1>" in (tmp_path / "o" / "index.html").read_text(encoding="utf-8")


def test_script_errors_are_one_line(tmp_path):
    done = run_command("compare", tmp_path / "nothing")
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "nothing does not exist; give a run or sweep folder" in done.stderr


def test_a_file_is_not_taken_as_its_folder(tmp_path):
    run = write_run(tmp_path / "run", summary(model()))
    text = tmp_path / "text.txt"
    text.touch()
    out = tmp_path / "report"
    with pytest.raises(ValueError, match=r"text\.txt is a file; give a run or sweep folder"):
        compare([text], out, latency=False)
    assert not out.exists()
    assert compare([run / "summary.json"], latency=False).folder == run / "comparison"


def test_script_help():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--help"],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    assert "RUN_OR_SWEEP_DIR" in done.stdout and "--out" in done.stdout
