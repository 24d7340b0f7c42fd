"""The examples of the docs are type-checked as a user's program would be."""

import pathlib
import subprocess
import sys

import pytest

from test_readme import ROOT, blocks

PAGES = [ROOT / "README.md", ROOT / "docs" / "getting_started.md",
         *sorted((ROOT / "docs").glob("how_to_*.md"))]


@pytest.mark.slow
def test_the_examples_pass_mypy(tmp_path):
    """All Python blocks of a page as one module.

    With the options of `make lint` alone, so that what it knows is read back.
    """
    written: list[pathlib.Path] = []
    for page in PAGES:
        text = "\n".join(code for language, code in blocks(page)
                         if language == "python")
        if text:
            written.append(tmp_path / f"example_{page.stem.lower()}.py")
            written[-1].write_text(text, encoding="utf-8")
    assert len(written) >= 6
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "setup.cfg"),
         *map(str, written)],
        cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr[-3000:]
    # What is wrong within the package is told by `make lint`.
    wrong = [line for line in done.stdout.splitlines()
             if pathlib.Path(line.partition(":")[0]).name.startswith("example_")]
    assert not wrong, "\n".join(wrong)
