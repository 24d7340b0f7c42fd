"""The comparison of decoders: rows that differ in the decoder alone; a toy run."""

import dataclasses
import json

import pytest

from oxyrec_jax import config

SMALL = ("data.shop.users=60", "model.width=16", "model.head_width=8",
         "model.mlp_width=16", "model.encoder_layers=1", "tokenizer.widths=[8,8]",
         "text.source=hashed", "evaluate.samples=20")


@pytest.fixture(scope="module")
def lib(load_file):
    return load_file("experiments/parallel_decoder.py")


def test_the_rows_differ_in_the_decoder_alone(lib):
    configs = [lib.get_config(row, seeds=(4,)) for row in lib.ROWS]
    same = {"name": "", "model": None}
    assert len({repr(dataclasses.replace(cfg, **same)) for cfg in configs}) == 1
    assert [(cfg.model.decoding, cfg.model.passes, cfg.model.decoder_layers)
            for cfg in configs] == [
        ("sequential", 0, 1), ("parallel", 0, 1), ("parallel", 0, 3), ("masked", 1, 1),
        ("masked", 2, 1), ("masked", 0, 1)]
    assert not any(cfg.model.memory or cfg.model.item_head for cfg in configs)


@pytest.mark.slow
def test_a_toy_is_trained_judged_and_timed_and_not_done_again(lib, tmp_path, capsys,
                                                              monkeypatch):
    chosen = "sequential", "parallel, deep", "masked, 2 passes", "masked, T passes"
    monkeypatch.setattr(lib, "ROWS", {row: lib.ROWS[row] for row in chosen})
    monkeypatch.setattr(lib, "REPEATS", 2)
    small = config.with_settings(lib.quickstart.tiny(), SMALL)
    monkeypatch.setattr(lib.quickstart, "tiny", lambda: small)
    arguments = ["--workdir", str(tmp_path), "--quick", "--steps", "8", "--json"]
    lib.main(arguments)
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(first["rows"]) == list(chosen)
    for own in first["rows"].values():
        assert all(0 <= own["figures"][cell] <= 1 for cell in lib.CELLS)
        assert own["ms"]["10"] > 0 and own["cpu_ms"]["10"] > 0
        assert own["compute"] <= 1.2
    assert first["rows"]["parallel, deep"]["steps"] < 8
    assert [path.name for path in sorted(tmp_path.glob("masked*"))] == [
        "masked-T-passes"], "one network, asked in three ways"
    lib.main(arguments)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == first
