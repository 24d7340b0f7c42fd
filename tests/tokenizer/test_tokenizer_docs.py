"""docs/tokenizer.md names every figure and bound, and shows every picture."""

import dataclasses
import pathlib
import re

import numpy as np
import pytest

from oxyrec_jax.report import words
from oxyrec_jax.tokenizer import collisions, quality, quality_gate, quantiser, sources

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
TEXT = (DOCS / "tokenizer.md").read_text("utf-8")
FIGURES = quality.measure(
    np.array([[0, 0], [1, 0]]), (2, 1), embeddings=np.eye(2, dtype=np.float32),
    codebooks=[np.eye(2), np.zeros((1, 2))], categories=["a", "b"],
    pairs=[(np.array([0]), np.array([1]))])
COUNTS = {"items", "widths", "sids", "agreement.pairs"}  # what the others are out of


@pytest.mark.parametrize("names", [
    set(FIGURES) - COUNTS, {field.name for field in
                            dataclasses.fields(quality_gate.GateConfig)},
    quantiser.KINDS, sources.GENERATIONS, sources.SOURCES, collisions.POLICIES],
    ids=["figures", "bounds", "quantisers", "generations", "sources", "policies"])
def test_every_name_is_explained(names):
    for name in names:
        assert f"`{name}`" in TEXT, name


def test_every_figure_has_a_line_on_the_page():
    flat = {f"{name}.{part}" for name, value in FIGURES.items()
            if isinstance(value, dict) for part in value}
    flat |= {name for name, value in FIGURES.items() if not isinstance(value, dict)}
    assert flat - COUNTS == {row[0] for row in words.TOKENIZER}


def test_every_picture_is_drawn_by_the_script_and_shown_once():
    shown = re.findall(r"!\[[^\]]+\]\(images/([\w.]+)\)", TEXT)
    there = sorted(path.name for path in (DOCS / "images").glob("tokenizer_*.svg"))
    assert sorted(shown) == there
    script = (DOCS / "plot_tokenizer.py").read_text("utf-8")
    for name in there:
        assert f"def {name.removeprefix('tokenizer_').removesuffix('.svg')}(" in script
        assert (DOCS / "images" / name).stat().st_size < 120_000
