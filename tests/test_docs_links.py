"""What pages link to exists, and every public package has its page of reference."""

import re
from pathlib import Path

import pytest

import nfx


ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def prose(page):
    """Returns a page without its blocks of code, in which brackets are no links."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page):
    headings = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    return {
        re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def problem(page, target):
    """Returns what is wrong with a link, or nothing."""
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    if not file.exists():
        return f"{target}: there is no such file"
    if page.is_relative_to(DOCS) and not file.is_relative_to(DOCS):
        return f"{target}: is no part of the site; name the file as code"
    if anchor and anchor not in anchors(file):
        return f"{target}: there is no such heading"
    return None


def problems(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    local = [target for target in targets if not re.match(r"https?://", target)]
    return [found for target in local if (found := problem(page, target))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    assert not problems(page)


def test_a_wrong_link_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One two\n\n[a](#one-two) [b](#three) [c](none.md) [d](https://x.org/#y)\n")
    assert [found.partition(":")[0] for found in problems(page)] == ["#three", "none.md"]


def test_every_public_package_has_its_reference():
    packages = {"nfx", *(f"nfx.{name}" for name in nfx._PACKAGES)}
    pages = {page.stem: page.read_text() for page in (DOCS / "reference").glob("*.md")}
    assert set(pages) == packages
    assert all(f"::: {name}\n" in text for name, text in pages.items())
