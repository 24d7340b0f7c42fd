"""The report: whole, self-contained, safe, and honest about what is missing."""

import html.parser
import json
import re

import numpy as np
import pytest

from oxyrec_jax import report
from oxyrec_jax.base import InputError
from oxyrec_jax.data import dataset as datasets
from oxyrec_jax.data import schema
from oxyrec_jax.evaluate import evaluation
from oxyrec_jax.report import fragments, semantic_map
from oxyrec_jax.tokenizer import quantiser, sid_table

EVIL = "<script>alert(1)</script> \"soap\" & <img src=x onerror=alert(2)>"
SECTIONS = ("summary", "results", "training", "semantic-ids", "examples", "provenance",
            "glossary")
CODES = np.array([[0, 1], [0, 1], [1, 0], [1, 2], [2, 2], [2, 0]])


class Page(html.parser.HTMLParser):
    """Collects what a browser would see: elements, texts, scripts, charts."""

    def __init__(self, markup):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self.scripts, self.charts = [], [], [], {}
        self._open = None
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open = (tag, dict(attrs)) if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if self._open is None:
            self.texts.append(data)
        elif self._open[1].get("type") == "application/json":
            self.charts[self._open[1]["id"]] = json.loads(data)
        elif self._open[0] == "script":
            self.scripts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def ids(self):
        return [attrs["id"] for _, attrs in self.elements if "id" in attrs]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "data"

    def fill(out):
        titles = [EVIL, "red nail polish", "blue nail polish", None, "soap bar",
                  "soap dish"]
        out.add_items(schema.item_table({
            "item_id": list("abcdef"), "title": titles, "text": ["t"] * 6}))
        sequences = [[0, 1, 2, 4, 3], [1, 2, 3, 4, 0], [2, 4, 1, 3, 5], [0, 1, 3, 2, 1]]
        out.add_sequences({"item": np.concatenate(sequences)}, np.full(4, 5),
                          ["ann", "bob", "cid", "dan"])
        for split, first, last in (("train", 1, 3), ("valid", 3, 4), ("test", 4, 5)):
            out.add_targets(split, np.array([[s, first, last] for s in range(4)]))
    datasets.write_dataset(folder, fill, facts={
        "source": "toy", "protocol": "leave-one-out", "tie_policy": "file order"})
    return datasets.load_dataset(folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, shop):
    folder = tmp_path_factory.mktemp("sids") / "sids"
    rng = np.random.default_rng(0)
    books = quantiser.Codebooks("residual-kmeans", (4, 3), {
        f"codebook_{level}": rng.normal(size=(width, 4)).astype(np.float32)
        for level, width in enumerate((4, 3))})
    sid_table.write_semantic_ids(
        shop, CODES, (4, 3), folder, popularity=np.arange(6), codebooks=books,
        vectors=rng.normal(size=(6, 4)).astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def results(shop):
    rng = np.random.default_rng(0)
    lists = [np.argsort(rng.random((4, 6)), 1)[:, :5] for _ in range(2)]
    leaves = np.unique(CODES, axis=0, return_inverse=True)[1].ravel()
    runs = {f"seed{i}": evaluation.Recommendations(found, None, leaves)
            for i, found in enumerate(lists)}
    cfg = evaluation.EvaluateConfig(ks=(1, 3, 5), headline="item.ndcg@5", samples=30)
    return evaluation.evaluate(shop, "test", runs, cfg=cfg,
                               embeddings=np.eye(6)).results


LOG = [{"step": 10 * i, "loss": 5 - i / 10, "learning_rate": 1e-3,
        "note": "not a figure", "valid": {"item.recall@5": i / 50, "loss": 5.0}}
       for i in range(12)]
EXAMPLES = [report.Example(EVIL, [0, 1, 2, 4], [3, 0, 1, -1], [-1.5, -2.5, -3.0], 0),
            report.Example("bob", [1, 2], [3, 4], [], 5),
            report.Example("cid", [1], [0])]


@pytest.fixture(scope="module")
def markup(tmp_path_factory, shop, bundle, results):
    path = report.write_report(
        tmp_path_factory.mktemp("report") / "report.html", title=f"Report {EVIL}",
        results={f"test {EVIL}": results}, training=LOG, semantic_ids=bundle,
        dataset=shop, examples=EXAMPLES,
        facts={"command": f"run {EVIL}", "config": {"model": {"width": 128}},
               "timings": {"training_minutes": 41.25}})
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def page(markup):
    return Page(markup)


def test_every_section_is_there_once_and_linked(page):
    ids = page.ids()
    assert len(ids) == len(set(ids))
    sections = [attrs["id"] for tag, attrs in page.elements if tag == "section"]
    assert tuple(sections) == SECTIONS
    links = [attrs["href"] for tag, attrs in page.elements if tag == "a"]
    assert links == [f"#{name}" for name in SECTIONS]
    assert "Not in this report" not in page.text


def test_nothing_is_loaded_from_outside(page, markup):
    for tag, attrs in page.elements:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base")
        assert "src" not in attrs and "action" not in attrs
        assert not any(name.startswith("on") for name in attrs)
        if "href" in attrs:
            assert attrs["href"].startswith("#")
    policy = [attrs["content"] for tag, attrs in page.elements
              if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert len(policy) == 1 and "default-src 'none'" in policy[0]
    style = re.search(r"<style>(.*?)</style>", markup, re.S).group(1)
    assert "url(" not in style and "@import" not in style
    assert len(markup) < 8e6


def test_markup_in_names_and_titles_is_shown_not_obeyed(page, markup):
    assert "<script>alert" not in markup and "<img" not in markup
    assert page.text.count("<script>alert(1)</script>") >= 5  # shown as text
    # Two scripts of the page itself: the plotting library and the drawing.
    assert sum("alert(1)" in script for script in page.scripts) == 0
    assert len([1 for tag, attrs in page.elements
                if tag == "script" and "type" not in attrs]) == 2
    hovers = page.charts["map"]["data"][0]["text"]
    assert hovers[0].startswith("&lt;script&gt;alert(1)&lt;/script&gt;")


def test_every_chart_has_its_place_its_data_and_words(page):
    places = [attrs for _, attrs in page.elements if "data-figure" in attrs]
    assert {attrs["data-figure"] for attrs in places} == set(page.charts)
    for attrs in places:
        assert len(attrs["aria-label"]) > 20
        assert page.charts[attrs["data-figure"]]["data"]
    for name in ("loss", "map", "code-map", "agreement", "usage-0", "usage-1",
                 "collisions", "r0-item.ndcg@5",
                 "r0-recall-k", "r0-gap", "r0-popularity", "r0-order",
                 "metric-valid.item.recall", "log-learning_rate"):
        assert name in page.charts


def test_summary_says_what_the_figures_say(page, results):
    assert f"NDCG@5 is {results['item.ndcg@5']:.4f}" in page.text
    gap = results["differences"]["cells"]["item.ndcg@5"]
    said = "clearly better" in page.text, "clearly worse" in page.text
    assert said == (gap["low"] > 0, gap["high"] < 0)
    assert "Training minutes" in page.text and "41.2" in page.text
    assert "file order" in page.text and "leave-one-out" in page.text


def test_bars_carry_figures_and_intervals(page, results):
    bars = page.charts["r0-item.ndcg@5"]["data"][0]
    row = bars["y"].index("This model")
    low, high = results["intervals"]["item.ndcg@5"]
    assert bars["x"][row] == pytest.approx(results["item.ndcg@5"])
    assert bars["error_x"]["array"][row] == pytest.approx(high - bars["x"][row])
    assert bars["error_x"]["arrayminus"][row] == pytest.approx(bars["x"][row] - low)
    assert "Popularity, shuffled" not in bars["y"]  # equals its unshuffled twin
    assert bars["x"] == sorted(bars["x"])


def test_examples_mark_the_hit_and_name_what_was_missed(page):
    hits = [attrs for tag, attrs in page.elements
            if tag == "li" and attrs.get("class") == "hit"]
    assert len(hits) == 1
    assert "hit at 2" in page.text
    assert "came next: soap dish" in page.text
    assert "what came next is not known" in page.text
    assert "1 of these 3 lists hold it" in page.text
    assert "-2.50" in page.text and "a0 b1" in page.text


def test_semantic_ids_are_counted(page):
    # Codes: one ID stands for two items, four for one; level 1 uses 3 of 4 codes.
    assert "2 of 6 items share their semantic ID" in page.text
    assert "3 of 4 codes are used; perplexity 3" in page.text
    bars = page.charts["collisions"]["data"][0]
    assert (bars["x"], bars["y"]) == (["1", "2"], [4, 1])
    assert "nail" in page.text


def test_an_empty_report_says_what_is_missing_everywhere(tmp_path):
    path = report.write_report(tmp_path / "empty.html", title="Nothing yet")
    page = Page(path.read_text("utf-8"))
    assert [attrs["id"] for tag, attrs in page.elements if tag == "section"
            ] == list(SECTIONS)
    for what in ("the model's figures", "results", "training curves",
                 "the semantic IDs", "examples", "configuration and versions"):
        assert f"Not in this report: {what}." in page.text
    assert page.charts == {}


def test_parts_do_not_need_each_other(tmp_path, bundle, results):
    path = report.write_report(tmp_path / "part.html", title="t", semantic_ids=bundle,
                               results={"a": results, "b": results})
    page = Page(path.read_text("utf-8"))
    assert "map" in page.charts and "r1-gap" in page.charts
    assert page.charts["map"]["data"][0]["text"][0].startswith("item 0")


def test_a_clear_loss_to_a_baseline_is_said(tmp_path, results):
    worse = json.loads(json.dumps(results))
    worse["differences"]["cells"]["item.ndcg@5"] = {
        "mean": -0.02, "low": -0.03, "high": -0.01}
    path = report.write_report(tmp_path / "worse.html", title="t",
                               results={"a": worse})
    page = Page(path.read_text("utf-8"))
    assert "the model is clearly worse" in page.text
    assert any(attrs.get("class") == "verdict bad" for _, attrs in page.elements)


def test_a_bundle_of_another_data_set_is_refused(tmp_path, shop, bundle):
    def fill(out):
        out.add_items(schema.item_table({"item_id": list("abcdef")}))
        out.add_sequences({"item": np.array([0, 1])}, np.array([2]), ["eve"])
    datasets.write_dataset(tmp_path / "d", fill, facts={"source": "other"})
    with pytest.raises(InputError, match="another data set"):
        report.write_report(tmp_path / "r.html", title="t", semantic_ids=bundle,
                            dataset=datasets.load_dataset(tmp_path / "d"))
    assert not (tmp_path / "r.html").exists()


def test_imported_semantic_ids_have_no_map_but_all_else(tmp_path, shop):
    sid_table.write_semantic_ids(shop, CODES, (4, 3), tmp_path / "s",
                                 popularity=np.arange(6))
    path = report.write_report(tmp_path / "r.html", title="t", dataset=shop,
                               semantic_ids=tmp_path / "s")
    page = Page(path.read_text("utf-8"))
    assert "Not in this report: the map of the items." in page.text
    assert "map" not in page.charts and "collisions" in page.charts


def test_an_example_of_an_unknown_item_is_refused(tmp_path, shop):
    example = report.Example("eve", [1, 77], [2])
    with pytest.raises(InputError, match="'eve' names item 77, but there are 6"):
        report.write_report(tmp_path / "r.html", title="t", dataset=shop,
                            examples=[example])


def test_a_log_with_a_figure_that_is_no_number_is_drawn(tmp_path):
    report.write_report(tmp_path / "r.html", title="t", training=[
        {"step": 1, "loss": 2.5}, {"step": 2, "loss": float("nan")}])
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    assert page.charts["loss"]["data"][0]["name"] == "loss"


def test_tags_escape_text_and_attributes():
    made = fragments.tag("p", "a < b & c", fragments.tag("b", "\"x\""),
                         class_="\"><script>")
    assert made == ('<p class="&quot;&gt;&lt;script&gt;">a &lt; b &amp; c'
                    "<b>&quot;x&quot;</b></p>")


@pytest.mark.parametrize("value, shown", [
    (0.0648, "0.0648"), (12101, "12,101"), (3.2e-5, "3.2e-05"), (None, "–"),
    (float("nan"), "–"), (41.25, "41.2"), (12345.6, "12,346"), (True, "yes"),
    (0.0, "0.0000"), ("a", "a")])
def test_numbers_are_printed_as_a_reader_wants_them(value, shown):
    assert fragments.number(value) == shown


def test_typical_words_are_those_that_other_titles_lack():
    titles = ["red nail polish", "blue nail polish", "red soap", "blue soap"]
    words = semantic_map.typical_words(np.array([0, 0, 1, 1]), titles)
    assert words == {0: "nail, polish", 1: "soap"}


def test_a_large_map_is_drawn_from_a_sample(monkeypatch):
    monkeypatch.setattr(semantic_map, "_MAP_POINTS", 50)
    rng = np.random.default_rng(0)
    figure, shown, share = semantic_map.item_map(
        rng.integers(0, 4, (200, 2)), rng.normal(size=(200, 3)), ["t"] * 200, {})
    assert shown == 50 and len(figure.data[0].x) == 50
    assert 0 < share <= 1
