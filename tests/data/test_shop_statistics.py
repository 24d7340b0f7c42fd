"""Statistics of a log, and the page that shows logs side by side."""

import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from oxyrec_jax.data import dataset, prepare, schema, statistics, statistics_page

NAN = float("nan")


def write(folder, sequences, *, items=4, columns=None, category=None, **facts):
    """A data set by hand: `sequences` are lists of items."""
    lengths = [len(one) for one in sequences]
    arrays = {"item": np.concatenate(sequences), **(columns or {})}

    def fill(out):
        out.add_items(schema.item_table({
            "item_id": [str(n) for n in range(items)],
            "category": category or [None] * items}))
        ends = np.cumsum([0, *lengths])
        for place in range(len(sequences)):  # many small blocks, several shards
            part = slice(ends[place], ends[place + 1])
            out.add_sequences({name: np.asarray(values)[part]
                               for name, values in arrays.items()},
                              lengths[place:place + 1], [f"user {place}"])
    dataset.write_dataset(folder, fill, columns=list(arrays),
                          facts={"source": "by hand", **facts}, shard_events=4)
    return dataset.load_dataset(folder)


@pytest.fixture
def shopping(tmp_path):
    return write(
        tmp_path / "log", [[0, 1, 0, 0], [2, 1, 2]], category=["a", "a", "b", "b"],
        columns={
            "behaviour": [0, 1, 2, 2, 0, 0, 2], "scenario": [0, 0, 1, 1, 1, 1, 1],
            "price": [9.0, 9, 10, 20, 5, 5, 7], "request": [0, 0, 1, 1, 2, -1, 3]},
        behaviours=["click", "cart", "order"], scenarios=["home", "search"])


def test_figures_by_hand(shopping):
    found = statistics.log_statistics(shopping)
    assert (found["users"], found["items"], found["events"]) == (2, 4, 7)
    # Items have 3, 2, 2 and 0 events. Sorted 0 2 2 3: 2 (0 + 4 + 6 + 12) / 28 - 5/4.
    assert found["popularity"]["gini"] == pytest.approx(44 / 28 - 5 / 4)
    assert found["popularity"]["top_1_percent"] == pytest.approx(3 / 7)
    assert found["popularity"]["never"] == 0.25
    assert found["lengths"]["mean"] == 3.5
    assert found["lengths"]["quantiles"]["1"] == 4
    # Two of [0 1 0 0] and one of [2 1 2] were there before.
    assert found["repeat_rate"] == pytest.approx(3 / 7)
    # aa aa aa | ba ab: 3 of 5; by chance (5/7)² + (2/7)².
    assert found["same_category"]["neighbours"] == pytest.approx(3 / 5)
    assert found["same_category"]["shuffled"] == pytest.approx(29 / 49)
    assert found["scenarios"] == pytest.approx({"home": 2 / 7, "search": 5 / 7})
    assert found["funnel"] == pytest.approx({"click": 1, "cart": 4 / 7, "order": 3 / 7})
    # Requests 0, 1, 2, 3 have 2, 2, 1 and 1 events.
    assert found["requests"]["mean"] == 1.5
    # Ordered in request 1: 10 + 20; in request 3: 7.
    assert found["baskets"]["count"] == 2
    assert found["baskets"]["mean"] == pytest.approx(18.5)


def test_a_log_of_items_alone_says_what_it_can(tmp_path):
    found = statistics.log_statistics(write(tmp_path / "log", [[0, 1], [1, 2, 3]]))
    assert found["scenarios"] is None and found["funnel"] is None
    assert found["baskets"] is None and found["requests"] is None
    assert found["same_category"] is None
    assert found["repeat_rate"] == 0
    json.dumps(found, allow_nan=False)


def test_without_behaviours_a_basket_is_the_whole_request(tmp_path):
    found = statistics.log_statistics(write(
        tmp_path / "log", [[0, 1, 2], [3, 0]],
        columns={"price": [1.0, 2, NAN, 4, NAN], "request": [0, 0, 1, 2, 3]}))
    # Requests 1 and 3 have no known price.
    assert found["baskets"]["count"] == 2
    assert found["baskets"]["mean"] == pytest.approx(3.5)  # (1 + 2 and 4) / 2


@hypothesis.given(st.lists(st.integers(0, 50), min_size=1, max_size=40)
                  .filter(lambda counts: sum(counts)))
@hypothesis.settings(deadline=None, max_examples=60)
def test_gini_is_half_the_relative_mean_difference(counts):
    counts = np.array(counts)
    gaps = np.abs(counts[:, None] - counts[None, :]).mean()
    assert statistics.popularity(counts)["gini"] == pytest.approx(
        gaps / (2 * counts.mean()), abs=1e-12)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_slope_finds_the_exponent_of_a_zipf_law(exponent):
    counts = 1e9 / np.arange(1, 3_000) ** exponent
    found = statistics.popularity(np.random.default_rng(0).permutation(counts))
    assert found["zipf_slope"] == pytest.approx(-exponent, abs=1e-6)


def test_blocks_do_not_change_the_figures(shopping, monkeypatch):
    whole = statistics.log_statistics(shopping)
    monkeypatch.setattr(statistics, "_BLOCK_EVENTS", 3)
    assert statistics.log_statistics(shopping) == whole


def test_the_page_needs_nothing_but_itself_and_quotes_what_is_foreign(shopping,
                                                                      tmp_path):
    found = statistics.log_statistics(shopping)
    logs = {"shop": found, "<script>alert(1)</script>": found}
    path = tmp_path / "page.html"
    statistics_page.write_statistics_page(path, logs, title="Ours & theirs")
    page = path.read_text("utf-8")
    assert "<script>alert(1)" not in page and "&lt;script&gt;" in page
    assert "Ours &amp; theirs" in page and "Popularity tail" in page
    assert " src=" not in page.split("<body>")[0] and 'src="http' not in page
    assert page.count("Plotly.newPlot(") >= 4 and len(page) > 1_000_000
    statistics_page.write_statistics(tmp_path / "logs.json", logs)
    assert json.loads((tmp_path / "logs.json").read_text())["shop"] == found


def test_the_table_has_a_column_for_each_log(shopping, tmp_path):
    plain = statistics.log_statistics(write(tmp_path / "plain", [[0, 1], [1, 2, 3]]))
    logs = {"shop": statistics.log_statistics(shopping), "plain": plain}
    lines = statistics_page.markdown_table(logs).splitlines()
    assert lines[0] == "| | shop | plain |"
    assert "| repeated items | 42.9% | 0.0% |" in lines
    assert "| reaches order | 42.9% | – |" in lines
    assert {line.count("|") for line in lines} == {4}
    with pytest.raises(ValueError, match="at least one log"):
        statistics_page.write_statistics_page(tmp_path / "page.html", {})


def test_a_public_log_has_known_figures(shared_data, tmp_path):
    prepare.prepare(prepare.DataConfig(
        source="sequences", path=str(shared_data / "amazon14_office")),
        tmp_path / "log")
    found = statistics.log_statistics(dataset.load_dataset(tmp_path / "log"))
    assert (found["users"], found["items"], found["events"]) == (4905, 2420, 53258)
    assert found["repeat_rate"] == 0  # one review for each user and item
    assert found["popularity"]["gini"] == pytest.approx(0.5318, abs=1e-3)
