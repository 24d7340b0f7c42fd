"""Records of a judge: one line of JSON each, and a file that pays for none twice."""

import json

import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.rewards.judge.records import (Record, RecordStore, from_line,
                                              read_records, record_schema, to_line)

ONE = Record("request-1", "i0", "model, aspects-1", {"profile": 0.5, "novelty": 1.0},
             {"profile": "likes \"mugs\"", "novelty": "新"})


def test_a_record_reads_back_as_it_was_written(tmp_path):
    assert from_line(to_line(ONE), "here") == ONE
    path = tmp_path / "records.jsonl"
    path.write_text(to_line(ONE) + "\n" + to_line(ONE) + "\n")
    assert list(read_records(path)) == [ONE, ONE]


def test_the_schema_names_every_field_and_the_range_of_scores():
    schema = record_schema()
    assert set(schema["required"]) == {"request", "item", "judge", "scores", "evidence"}
    limits = schema["properties"]["scores"]["additionalProperties"]
    assert (limits["minimum"], limits["maximum"]) == (0, 1)


@pytest.mark.parametrize("change, word", [
    ({"scores": {"profile": 1.5}}, "scores.profile"),
    ({"scores": {"profile": None}}, "scores.profile"),
    ({"scores": {"beauty": 0.5}}, "beauty"), ({"item": 3}, "item"),
    ({"evidence": "none"}, "evidence")])
def test_a_line_that_is_no_record_is_named(tmp_path, change, word):
    path = tmp_path / "records.jsonl"
    wrong = json.dumps(json.loads(to_line(ONE)) | change)
    path.write_text(to_line(ONE) + "\n" + wrong + "\n")
    with pytest.raises(InputError, match=f"line 2.*{word}"):
        list(read_records(path))


def test_a_store_keeps_records_by_judge_request_and_item(tmp_path):
    store = RecordStore(tmp_path / "records.sqlite")
    many = [Record(f"request-{number}", "i0", "a", {"profile": 0.0}, {})
            for number in range(700)]
    store.put_many(many)
    store.close()
    store = RecordStore(tmp_path / "records.sqlite")
    pairs = [(one.request, one.item) for one in many]
    assert set(store.get_many("a", [*pairs, ("request-0", "i1")])) == set(pairs)
    assert store.get_many("b", pairs) == {} == store.get_many("a", [])
    store.close()


def test_records_are_written_all_or_none(tmp_path):
    store = RecordStore(tmp_path / "records.sqlite")

    def some():
        yield ONE
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        store.put_many(some())
    assert store.get_many(ONE.judge, [(ONE.request, ONE.item)]) == {}
    store.close()


def test_a_file_that_is_no_store_is_named(tmp_path):
    (tmp_path / "records.sqlite").write_text("not a database" * 100)
    with pytest.raises(InputError, match="cannot be used for a judge's records"):
        RecordStore(tmp_path / "records.sqlite")
