"""The site builds: no page is lost, no reference is broken, no docstring is garbled."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def test_every_page_is_reached_from_the_first(tmp_path):
    """By name or by a pattern, so that a new page needs no change but a place."""
    index = (DOCS / "index.md").read_text("utf-8")
    entries = [line.strip() for block in re.findall(r"```{toctree}\n(.*?)```", index,
                                                    re.DOTALL)
               for line in block.splitlines() if line and not line.startswith(":")]
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in
             (*DOCS.glob("*.md"), *DOCS.glob("reference/*.md"))} - {"index"}
    reached = {page for page in pages for entry in entries
               if pathlib.PurePath(page).match(entry)
               and page.count("/") == entry.count("/")}
    assert pages == reached
    assert all((DOCS / f"{entry}.md").is_file() for entry in entries
               if "*" not in entry)


def test_pictures_need_no_network():
    for path in (DOCS / "images").glob("*.svg"):
        links = re.findall(r'href="([^"]+)"', path.read_text("utf-8"))
        assert not [link for link in links if not link.startswith(("#", "data:"))], path


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("furo", reason="the extra docs is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q",
         "-d", str(tmp_path / "doctrees"), "-b", "html", str(DOCS),
         str(tmp_path / "html")], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / "html" / "reference" / "losses.html").read_text("utf-8")
    assert "grpo_loss" in page and "Parameters" in page
    shown = (tmp_path / "html" / "how_to_loss.html").read_text("utf-8")
    assert "clipped_item_loss" in shown
    for path in (tmp_path / "html").glob("*.html"):
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"',
                            path.read_text("utf-8"))
        assert not loaded, (path.name, loaded)
