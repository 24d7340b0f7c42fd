"""Work is passed on unchanged; elsewhere than on a terminal it leaves log lines."""

import logging

import pytest

from oxyrec_jax import progress


@pytest.fixture(autouse=True)
def lines(caplog):
    caplog.set_level(logging.INFO, "oxyrec_jax.progress")
    return lambda: [record.getMessage() for record in caplog.records]


def test_items_come_through_in_order_and_are_counted(lines, capsys):
    assert list(progress.track("abc", "reading")) == ["a", "b", "c"]
    assert len(lines()) == 1 and lines()[0].startswith("reading: 3/3 in ")
    assert capsys.readouterr().out == ""


def test_an_unknown_total_is_not_invented(lines):
    assert list(progress.track(iter([1, 2]), "reading")) == [1, 2]
    assert lines()[0].startswith("reading: 2 in ")


def test_a_line_every_ten_seconds_with_the_newest_note(lines, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.bar("training", 100) as advance:
        for second in range(25):
            now[0] = float(second)
            advance(4, "loss 1" if second < 15 else None)
    assert [line.split(" in ")[0] for line in lines()] == [
        "training: 44/100", "training: 84/100", "training: 100/100"]
    assert all(line.endswith("loss 1") for line in lines())
    # 40 items in ten seconds since the first line: 16 are left.
    assert ["left" in line for line in lines()] == [False, True, False]
    assert "in 20.0 s, about 4 s left loss 1" in lines()[1]


def test_a_terminal_gets_a_bar_and_no_lines(lines, monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress.track(range(3), "reading")) == [0, 1, 2]
    with progress.bar("counting", None) as advance:
        advance(2, "a note")
    captured = capsys.readouterr()
    assert captured.out == "" and "reading" in captured.err and lines() == []


def test_an_error_passes_through():
    with pytest.raises(KeyError):
        for _ in progress.track([1], "reading"):
            raise KeyError
