"""The next basket: rows of the table differ where they say; a toy runs and resumes."""

import dataclasses
import json

import numpy as np
import pytest

from oxyrec_jax.base import InputError

HEAD = "user\titem\tts\tbasket\tquantity\tsales_value"


@pytest.fixture(scope="module")
def lib(load_file):
    return load_file("experiments/completejourney.py")


def test_the_networks_differ_in_what_they_are_told_alone(lib):
    told, untold = lib.get_config(), lib.get_config(lib.UNTOLD)
    assert told.model.instructions.scenarios == 5
    assert not untold.model.instructions.scenarios
    model = dataclasses.replace(untold.model, instructions=told.model.instructions)
    assert dataclasses.replace(untold, name=told.name, model=model) == told
    assert told.data.protocol == "next-basket" and not told.model.memory
    assert told.model.own == "requests"
    assert list(told.align.reward) == ["spend"]


@pytest.mark.slow
def test_a_toy_of_the_told_network_and_its_alignment(lib, tmp_path, monkeypatch):
    rng, rows = np.random.default_rng(0), [HEAD]
    for household in range(16):
        for basket in range(5):
            at = 1_490_000_000 + 50_000 * basket
            rows += [f"{household}\t{item}\t{at}\t{household * 9 + basket}\t1\t2.5"
                     for item in rng.permutation(24)[:rng.integers(1, 5)]]
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "transactions.tsv").write_text("\n".join(rows) + "\n")
    (folder / "items.jsonl").write_text("".join(json.dumps(
        {"item": item, "type": f"BREAD {item}"}) + "\n" for item in range(24)))
    names = [lib.TOLD, lib.FUSED.format(lib.ALIGNED)]
    settings = [f"data.path={folder}", "data.k_core=0"]
    found = lib.reproduce("test", names, tmp_path / "work", settings=settings, toy=True)
    assert {*names, lib.ALIGNED, lib.OWN, "popularity", "markov"} <= {*found}
    for cells in found.values():
        assert list(cells) == list(lib.CELLS)
        assert all(0 <= value[0] <= 1 for cell, value in cells.items()
                   if cell != "gmv@10")
    space = lib.workflow.open_workspace(tmp_path / "work" / "told", None,
                                        ["model.memory=true"])
    with pytest.raises(InputError, match="are sets; set model.memory=false"):
        lib.workflow.load(space)
    monkeypatch.setattr(lib, "recommend_split", None)  # all is there already
    again = lib.table_of(tmp_path / "work", [lib.TOLD, lib.ALIGNED],
                         (*lib.TOY, *settings))
    assert "| aligned + own frequency |" in lib.show(again)
    assert again["rows"][names[1]]["runs"]["seed0"]["basket.recall@10"] == found[
        names[1]]["recall@10"][0]
