"""The pages about the losses: their code runs, their links lead somewhere."""

import pathlib
import re

import pytest

from oxyrec_jax import losses

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
LOSSES = [name for name in losses.__all__ if name.endswith(("_loss", "_penalty"))]


@pytest.mark.slow
def test_the_optax_page_runs_from_top_to_bottom(capsys):
    text = (DOCS / "losses_with_optax.md").read_text(encoding="utf-8")
    space: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for number, block in enumerate(blocks):
        exec(compile(block, f"losses_with_optax.md, block {number}", "exec"), space)
    trained = " ".join([*space["chances"], *space["closer"]])
    for name in LOSSES:
        assert name in trained
    assert "effective_group_size" in capsys.readouterr().out


def test_every_public_name_is_in_the_table():
    text = (DOCS / "losses.md").read_text(encoding="utf-8")
    for name in losses.__all__:
        assert f"`{name}`" in text, name


@pytest.mark.parametrize("page", ["losses.md", "losses_with_optax.md"])
def test_local_links_and_pictures_exist(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#]+)", prose)
    assert targets
    for target in targets:
        if not target.startswith("http"):
            assert (DOCS / target).resolve().exists(), target
