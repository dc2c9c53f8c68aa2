"""Links and anchors of the documentation resolve, its Python runs, and README.md stays short."""

import re
from pathlib import Path

import pytest
from doc_commands import BLOCK, PAGES, ROOT, blocks

from mobilellm.version import __version__

README_BYTES = 12 * 1024
LINKED = (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")
# A block that includes a file of docs/examples is run by that example's own test.
PYTHON = [(p, source) for p in PAGES for source in blocks(p, "python") if "--8<--" not in source]
EXAMPLES = sorted((ROOT / "docs/examples").glob("*.py"))


def _anchors(page: Path) -> set[str]:
    """The anchors of the page's headings, as GitHub and MkDocs make them."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"\s+", "-", heading) for heading in plain}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_internal_links_resolve(page: Path):
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        assert not anchor or anchor in _anchors(linked), target


def test_the_readme_is_short():
    assert (ROOT / "README.md").stat().st_size <= README_BYTES


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [page.relative_to(ROOT / "docs") for page in PAGES if "docs" in page.parts]
    assert all(f" {page}\n" in navigation for page in pages)


def test_every_public_package_has_an_api_page():
    packages = {path.parent.name for path in (ROOT / "mobilellm").glob("*/__init__.py")}
    internal = {
        "chat",
        "cli",
        "commands",
        "evaluation",
        "hydra_app",
        "inference",
        "launchers",
        "pipeline",
    }
    pages = {path.stem for path in (ROOT / "docs/api").glob("*.md")}
    assert pages == packages - internal | {"mobilellm", "index"}


@pytest.mark.slow
@pytest.mark.parametrize(("page", "source"), PYTHON, ids=lambda value: getattr(value, "name", ""))
def test_the_python_of_a_page_runs(page: Path, source: str, monkeypatch, example_runs):
    monkeypatch.chdir(example_runs)
    exec(compile(source, str(page), "exec"), {"__name__": "example"})


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_stands_in_a_page_and_has_a_test(example: Path):
    name = example.relative_to(ROOT).as_posix()
    assert any(f'--8<-- "{name}"' in page.read_text(encoding="utf-8") for page in PAGES)
    tests = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    assert any(example.name in path.read_text(encoding="utf-8") for path in tests)


def test_the_citation_names_the_version():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
