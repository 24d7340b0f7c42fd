"""The scaling study: who learns and who is asked, its law and page, a toy cell."""

import dataclasses

import numpy as np
import pytest

from oxyrec_jax import workspace
from oxyrec_jax.evaluate.scaling_law import Law

LAW = Law(2.0, 30.0, 0.5, 400.0, 0.6, 0.0)


@pytest.fixture(scope="module")
def lib(load_file):
    return load_file("experiments/scaling.py")


def cells(lib, seeds=1):
    """The table of a network that obeys `LAW`, whose second seed is .02 nats worse."""
    found = {}
    for size, width in zip((2e3, 1e4, 5e4), lib.WIDTHS):
        for data, name in zip((1e4, 4e4, 2e5), lib.SHARES):
            loss = float(LAW(np.array(size), np.array(data)))
            counts = [100, 300, 200]
            found.setdefault(str(width), {})[name] = [
                {"parameters": int(size), "targets": int(data), "counts": counts,
                 "nats": [count * (loss + 0.02 * seed) for count in counts],
                 "best_step": 2, "steps": 2, "cpu_seconds": 1.0}
                for seed in range(seeds)]
    return found


def test_sizes_differ_in_the_network_and_its_rate_alone(lib):
    first, *others = [lib.config_of(width) for width in lib.WIDTHS]
    assert len(lib.WIDTHS) == 5 and len(lib.SHARES) == 3
    for cfg in others:
        train = dataclasses.replace(cfg.train, optimizer=first.train.optimizer)
        assert dataclasses.replace(cfg, name=first.name, model=first.model,
                                   train=train) == first
        assert cfg.train.optimizer.learning_rate < (
            first.train.optimizer.learning_rate)


def test_logs_are_nested_and_nobody_is_asked_who_learnt(lib):
    class Log:
        def offsets(self):
            return np.arange(0, 3 * 521, 3)

    people = lib.people_of(Log())
    logs = [set(rows[:, 0]) for rows in people.learn.values()]
    assert logs[0] < logs[1] < logs[2] and [len(log) for log in logs] == [25, 100, 400]
    asked = {number for rows in people.ask for number in rows[:, 0]}
    chosen = set(people.choose[:, 0])
    assert len(people.ask) == lib.GROUPS and len(asked) == 100 and len(chosen) == 20
    assert not asked & chosen and not (asked | chosen) & logs[2]
    assert (people.choose[:, 1] == 1).all() and (people.choose[:, 2] == 3).all()


def test_the_law_is_that_of_the_cells_and_seeds_widen_it(lib, monkeypatch):
    monkeypatch.setattr(lib, "SAMPLES", 8)
    law = lib.law_of(cells(lib))
    assert law["size_power"]["value"] == pytest.approx(0.5, rel=0.02)
    assert law["floor"]["high"] - law["floor"]["low"] < 1e-3  # nothing varies
    both = lib.law_of(cells(lib, seeds=2))
    assert both["floor"]["high"] - both["floor"]["low"] > 1e-3
    assert lib.law_of(dict(list(cells(lib).items())[:1])) is None


def test_a_power_at_the_end_of_its_search_is_said_to_tell_nothing(lib, monkeypatch):
    monkeypatch.setattr(lib, "SAMPLES", 2)
    law = lib.law_of(cells(lib))
    assert "stands at the end" not in lib.law_words(law)
    steep = {**law, "size_power": {"value": 4.0, "low": 4.0, "high": 4.0}}
    assert "alpha stands at the end of its search" in lib.law_words(steep)
    assert "beta stands" not in lib.law_words(steep)


def test_the_page_shows_every_loss_and_the_law(lib, tmp_path, monkeypatch):
    monkeypatch.setattr(lib, "SAMPLES", 4)
    found = {"cells": cells(lib), "seeds": [0]}
    found["law"] = lib.law_of(found["cells"])
    text = lib.write_page(tmp_path / "page.html", found).read_text("utf-8")
    loss = LAW(np.array(2e3), np.array(1e4))
    assert f"{loss:.4f}" in text and "alpha 0.5" in text
    assert "width 16" in text and "<script src" not in text
    assert f"| 16 | 2,000 | {loss:.4f} |" in lib.show(found)


def test_a_toy_cell_is_trained_asked_and_not_done_again(lib, tmp_path, monkeypatch,
                                                        shop_workdir):
    workspace.share(workspace.open_workspace(tmp_path / "shop", shop_workdir.cfg),
                    shop_workdir)
    monkeypatch.setattr(lib, "SHARES", {"all people": 1.0})
    found = lib.reproduce("nats", ["width 16"], tmp_path, settings=(), toy=True)
    loss, = found["width 16"]["all people"]
    assert 0 < loss < 7  # 200 items: log(200) = 5.3
    monkeypatch.setattr(lib.loop, "train", None)
    assert lib.reproduce("nats", ["width 16"], tmp_path, settings=(),
                         toy=True) == found
