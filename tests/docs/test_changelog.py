"""The changelog is shown at the top of the repository and as a page of docs/."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_links_of_the_changelog_hold_at_both_places():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    # A path from the top of the repository leads nowhere on the page, which is inside docs/.
    assert "](docs/" not in text
