"""The page of a tokenizer build: whole, self-contained, and it says the figures."""

import dataclasses
import html.parser
import json

import numpy as np
import pytest

from oxyrec_jax import report
from oxyrec_jax.base import InputError
from oxyrec_jax.data import dataset as datasets
from oxyrec_jax.data import schema
from oxyrec_jax.tokenizer import quantiser, sid_table
from oxyrec_jax.tokenizer.quality_gate import GateConfig

EVIL = "<script>alert(1)</script> soap"
#   Items 0 and 1 share their ID; 2 shares the first code with them.
CODES = np.array([[0, 1], [0, 1], [0, 0], [1, 2], [2, 2], [2, 0]])


class Page(html.parser.HTMLParser):
    """Elements, charts by name, and the text that a reader sees."""

    def __init__(self, markup):
        super().__init__()
        self.elements, self.charts, self.text = [], {}, ""
        self._inside = ("", {})
        self.feed(markup)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = tag, dict(attrs)

    def handle_endtag(self, tag):
        self._inside = ("", {})

    def handle_data(self, data):
        if self._inside[1].get("type") == "application/json":
            self.charts[self._inside[1]["id"]] = json.loads(data)
        elif not self._inside[0]:
            self.text += f" {data}"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    def fill(out):
        out.add_items(schema.item_table({
            "item_id": list("abcdef"), "text": ["t"] * 6,
            "title": [EVIL, "nail red", "nail blue", None, "soap bar", "soap dish"],
            "category": [EVIL, "nails", "nails", None, "soap", "soap"]}))
        sequences = [[0, 1, 2, 4, 3], [1, 2, 3, 4, 0], [2, 4, 1, 3, 5], [0, 1, 3, 2, 1]]
        out.add_sequences({"item": np.concatenate(sequences)}, np.full(4, 5),
                          list("wxyz"))
        out.add_targets("train", np.array([[s, 1, 3] for s in range(4)]))
    folder = tmp_path_factory.mktemp("shop") / "data"
    datasets.write_dataset(folder, fill, facts={"source": "toy"})
    return datasets.load_dataset(folder)


def table(**changes):
    rng = np.random.default_rng(0)
    books = quantiser.Codebooks("residual-kmeans", (4, 3), {
        f"codebook_{level}": rng.normal(size=(width, 4)).astype(np.float32)
        for level, width in enumerate((4, 3))})
    ids = sid_table.SemanticIds(CODES, (4, 3), np.arange(6), books,
                                rng.normal(size=(6, 4)).astype(np.float32))
    return dataclasses.replace(ids, **changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory, shop):
    folder = tmp_path_factory.mktemp("made")
    sid_table.save(shop, table(), folder / "sids", gate=GateConfig(
        max_duplicates=0.5, min_coverage=0.5, min_agreement=0.0))
    path = report.write_tokenizer_page(folder / "page.html", folder / "sids", shop,
                                       title=f"Codes {EVIL}")
    markup = path.read_text("utf-8")
    return Page(markup), json.loads((folder / "page.json").read_text()), markup


def test_sections_are_linked_and_no_name_is_given_twice(made):
    page = made[0]
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    sections = [attrs["id"] for tag, attrs in page.elements if tag == "section"]
    assert sections == ["summary", "figures", "maps", "use", "meaning", "samples",
                        "provenance"]
    assert [attrs["href"] for tag, attrs in page.elements if tag == "a"] == [
        f"#{name}" for name in sections]
    assert {attrs["data-figure"] for _, attrs in page.elements
            if "data-figure" in attrs} == set(page.charts)


def test_nothing_is_loaded_and_no_title_is_obeyed(made):
    page, _, markup = made
    for tag, attrs in page.elements:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base")
        assert not {"src", "action"} & set(attrs)
        assert attrs.get("href", "#").startswith("#")
    policy = [attrs["content"] for tag, attrs in page.elements
              if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy[0]
    assert "<script>alert" not in markup and "<script>alert(1)</script>" in page.text


def test_every_figure_stands_in_the_table_with_its_meaning(made):
    page, values, _ = made
    assert "33.3%" in page.text  # duplicates: 2 of 6
    # Of 4 and 3 codes 3 and 3 are used; the first code's loads are 3, 1, 2, 0.
    assert "75.0% · 100.0%" in page.text and "1 · 0" in page.text
    for name in ("Items that share an ID", "Perplexity", "Gini", "Left over",
                 "Category purity", "Mutual information", "Agreement, lift"):
        assert name in page.text
    assert "≤ 0.5" in page.text and "≥ 0.5" in page.text  # the gate's bounds
    assert "Quality gate: the semantic IDs keep all 4 bounds." in page.text
    assert values["quality"]["duplicates"] == pytest.approx(1 / 3)
    assert values["gate"]["passed"] is True


def test_charts_hold_the_figures(made):
    page, values, _ = made
    assert page.charts["by-depth"]["data"][0]["y"] == values["quality"]["purity"]
    bars = page.charts["agreement"]["data"]
    assert bars[0]["y"] == values["quality"]["agreement"]["share"]
    assert bars[1]["y"] == values["quality"]["agreement"]["chance"]
    assert len(page.charts["code-map"]["data"][0]["text"]) == 3
    assert {"usage-0", "usage-1", "collisions", "map"} <= set(page.charts)


def test_map_and_samples_stand_in_the_json(made):
    values = made[1]
    assert values["code_map"]["code"] == [0, 1, 2]
    assert values["code_map"]["items"] == [3, 1, 2]
    assert values["code_map"]["purity"][1] is None  # its only item has no category
    assert values["code_map"]["category"][2] == "soap"
    # The most popular items have the highest numbers here.
    assert values["samples"][0][0] == {
        "prefix": [0], "count": 3, "items": ["nail blue", "nail red", EVIL]}
    assert values["samples"][0][1] == {
        "prefix": [0, 1], "count": 2, "items": ["nail red", EVIL]}


def test_a_gate_that_fell_is_marked(tmp_path, shop):
    sid_table.save(shop, table(), tmp_path / "sids", gate=GateConfig())
    manifest = json.loads((tmp_path / "sids" / "manifest.json").read_text())
    manifest["gate"] = {"passed": False, "asked": [
        {"figure": "gini", "level": level, "value": 0.3, "bound": 0.2,
         "limit": "at most", "ok": level == 1} for level in (1, 2)]}
    (tmp_path / "sids" / "manifest.json").write_text(json.dumps(manifest))
    path = report.write_tokenizer_page(tmp_path / "page.html", tmp_path / "sids", shop)
    page = Page(path.read_text("utf-8"))
    assert "gini of level 2 0.3, expected at most 0.2" in page.text
    assert "level 2 ≤ 0.2" in page.text and "level 1" not in page.text
    assert any(attrs.get("class") == "verdict bad" for _, attrs in page.elements)


def test_retired_items_are_not_counted(tmp_path, shop):
    gone = np.array([True, False, False, False, False, False])
    sid_table.save(shop, table(retired=gone), tmp_path / "sids")
    path = report.write_tokenizer_page(tmp_path / "page.html", tmp_path / "sids", shop)
    assert "0 of 5 items share their semantic ID" in Page(path.read_text("utf-8")).text
    values = json.loads((tmp_path / "page.json").read_text())
    assert values["samples"][0][0]["items"] == ["nail blue", "nail red"]


def test_a_level_that_only_numbers_says_so(tmp_path, shop):
    codes = np.c_[CODES, [0, 1, 0, 0, 0, 0]]
    sid_table.save(shop, table(codes=codes, widths=(4, 3, 2)), tmp_path / "sids")
    path = report.write_tokenizer_page(tmp_path / "page.html", tmp_path / "sids", shop)
    assert Page(path.read_text("utf-8")).text.count("only numbers items") == 1


def test_imported_ids_have_a_page_without_maps(tmp_path, shop):
    sid_table.write_semantic_ids(shop, CODES, (4, 3), tmp_path / "sids",
                                 popularity=np.arange(6))
    path = report.write_tokenizer_page(tmp_path / "page.html", tmp_path / "sids", shop)
    page = Page(path.read_text("utf-8"))
    assert "Not in this report: the map of the items." in page.text
    assert "Left over" not in page.text and "collisions" in page.charts
    assert json.loads((tmp_path / "page.json").read_text())["code_map"] is None


def test_a_bundle_of_another_data_set_is_refused(tmp_path, shop, made):
    sid_table.write_semantic_ids(shop, CODES, (4, 3), tmp_path / "sids",
                                 popularity=np.arange(6))

    def fill(out):
        out.add_items(schema.item_table({"item_id": list("abcdef")}))
        out.add_sequences({"item": np.array([0, 1])}, np.array([2]), ["eve"])
    datasets.write_dataset(tmp_path / "d", fill, facts={"source": "other"})
    with pytest.raises(InputError, match="another data set"):
        report.write_tokenizer_page(tmp_path / "page.html", tmp_path / "sids",
                                    datasets.load_dataset(tmp_path / "d"))
    assert not (tmp_path / "page.html").exists()
