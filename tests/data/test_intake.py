"""Files from outside: damage is named, bad rows are kept, archives cannot reach out."""

import errno
import gzip
import json
import pathlib
import stat
import zipfile

import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.data import intake
from oxyrec_jax.data.intake import Intake, Place


@pytest.fixture
def take(tmp_path):
    with Intake(tmp_path / "q" / "d.quarantine.jsonl", 0.5) as opened:
        yield opened


def put(path: pathlib.Path, data: bytes) -> Place:
    path.write_bytes(data)
    return Place(path)


def test_lines_are_numbered_and_empty_ones_skipped(tmp_path, take):
    data = "\ufeffa\r\n\nç\n".encode()
    plain = put(tmp_path / "x.tsv", data)
    zipped = put(tmp_path / "x.tsv.gz", gzip.compress(data))
    assert plain.name == zipped.name == "x.tsv"
    for place in (plain, zipped):
        assert list(take.lines(place)) == [(1, "a"), (3, "ç")]
    assert [entry["name"] for entry in take.sources()] == ["x.tsv", "x.tsv.gz"]
    assert take.sources()[0]["bytes"] == len(data)


def test_a_truncated_gzip_is_one_sentence(tmp_path, take):
    whole = gzip.compress(b"".join(b"%d line\n" % n for n in range(50_000)))
    place = put(tmp_path / "x.gz", whole[:len(whole) // 2])
    with pytest.raises(InputError, match=r"x\.gz is damaged or cut short .*fetch it"):
        list(take.lines(place))


@pytest.mark.parametrize("data, message", [
    (b"", "is empty"),
    (b"not gzip", "damaged or cut short"),
    (gzip.compress(b"abc", mtime=0)[:-4], "damaged or cut short"),
    (gzip.compress(b"a" * 99, mtime=0)[:-8] + b"12345678", "damaged or cut short"),
])
def test_other_damage_is_named_too(tmp_path, take, data, message):
    with pytest.raises(InputError, match=rf"x\.gz .*{message}|x\.gz is {message}"):
        list(take.lines(put(tmp_path / "x.gz", data)))


def test_a_missing_file_and_a_folder_are_named(tmp_path, take):
    with pytest.raises(InputError, match="gone does not exist"):
        list(take.lines(Place(tmp_path / "gone")))
    with pytest.raises(InputError, match="is a folder, expected a file"):
        list(take.lines(Place(tmp_path)))


def test_a_line_that_is_no_text_goes_to_quarantine(tmp_path, take):
    place = put(tmp_path / "x", b"a\n\xff\xfe\nb\n")
    assert [text for _, text in take.lines(place)] == ["a", "b"]
    assert take.reasons == {"not utf-8 text": 1}


def test_an_endless_line_is_refused(tmp_path, take, monkeypatch):
    monkeypatch.setattr(intake, "_LINE_LIMIT", 100)
    with pytest.raises(InputError, match="line 2 is longer"):
        list(take.lines(put(tmp_path / "x", b"a\n" + b"b" * 200)))


def test_bad_rows_are_counted_kept_and_bounded(tmp_path):
    place = Place(tmp_path / "log.csv")
    path = tmp_path / "d.quarantine.jsonl"
    with Intake(path, 0.25) as take:
        take.accept(6)
        take.reject(place, 4, "no user", "x" * 500)
        take.reject(place, 9, "no item", {"a": 1})
        take.check()  # 2 of 8 is exactly a quarter
        take.reject(place, 11, "no user", "y")
        assert not path.exists()
        with pytest.raises(InputError, match=(
                r"3 of 9 rows are bad \(33\.33%\), more than data.max_bad_share "
                r"25\.00%; the first is .*log\.csv line 4: no user; see .*d\.quar")):
            take.check()
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert kept == [
        {"file": "log.csv", "line": 4, "reason": "no user", "row": "x" * 200},
        {"file": "log.csv", "line": 9, "reason": "no item", "row": "{'a': 1}"},
        {"file": "log.csv", "line": 11, "reason": "no user", "row": "y"}]
    assert take.facts() == {"file": "d.quarantine.jsonl", "rows": 3, "share": 1 / 3,
                            "reasons": {"no item": 1, "no user": 2}}


def test_a_run_that_fails_otherwise_still_keeps_its_bad_rows(tmp_path):
    path = tmp_path / "q.jsonl"
    with pytest.raises(RuntimeError):
        with Intake(path, 0.5) as take:
            take.reject(Place(tmp_path / "x"), 1, "bad")
            raise RuntimeError
    assert path.read_text().count("\n") == 1


def test_a_clean_run_leaves_no_quarantine_of_an_older_one(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text("old")
    with Intake(path, 0.0) as take:
        take.accept()
        take.check()
    assert not path.exists() and take.facts()["file"] is None


def test_bad_rows_of_an_earlier_run_outlive_an_error(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text("old")
    with pytest.raises(InputError, match="^no column$"):
        with Intake(path, 0.0):
            raise InputError("no column")
    assert path.read_text() == "old"


def test_an_error_after_bad_rows_says_where_they_are(tmp_path):
    path = tmp_path / "q.jsonl"
    with pytest.raises(InputError, match=r"^cut short; the 1 bad rows .*q\.jsonl$"):
        with Intake(path, 0.5) as take:
            take.reject(Place(tmp_path / "x"), 1, "bad")
            raise InputError("cut short")
    assert path.read_text().count("\n") == 1


def test_what_mends_rows_is_told_where_nearly_all_bad_ones_need_it(tmp_path):
    log, other = Place(tmp_path / "log.csv"), Place(tmp_path / "other.csv")
    with Intake(tmp_path / "q.jsonl", 0.1) as take:
        take.explain(log, "no user", "turn the page")
        take.explain(log, "no user", "unheard")
        for line in range(9):
            take.reject(log, line, "no user")
        take.reject(other, 1, "no user")  # 9 of 10 are the log's
        with pytest.raises(InputError, match=(
                r"10 of 10 rows .*log\.csv line 0: no user; turn the page; all of them "
                r"are in .*q\.jsonl$")):
            take.check()
        take.accept(10)
        with pytest.raises(InputError, match="turn the page.*a higher share leaves"):
            take.check()
        take.reject(other, 2, "no user")  # 9 of 11 no longer are nearly all
        with pytest.raises(InputError, match="mend the file or raise the share"):
            take.check()


def test_a_full_disk_while_keeping_bad_rows_says_so(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(InputError, match="the disk is full"):
        with Intake(tmp_path / "q.jsonl", 0.5) as take:
            take.reject(Place(tmp_path / "x"), 1, "bad")
            monkeypatch.setattr(intake.os, "fsync", full)
    assert list(tmp_path.iterdir()) == []


def test_members_of_an_archive_are_read_in_place(tmp_path, take):
    path = tmp_path / "ml.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ml/ratings.csv", "a,b\n")
        archive.writestr("ml/movies.csv.gz", gzip.compress(b"c\n"))
    place = intake.find(path, ["ratings.dat", "ratings.csv"])
    assert str(place) == f"{path}:ml/ratings.csv" and place.name == "ratings.csv"
    assert list(take.lines(place)) == [(1, "a,b")]
    assert list(take.lines(intake.need(path, ["movies.csv"]))) == [(1, "c")]
    assert intake.find(path, ["links.csv"]) is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["ml.zip"]
    with pytest.raises(InputError, match="holds none of links.csv"):
        intake.need(path, ["links.csv"])


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "C:\\x", "..\\x"])
def test_an_archive_that_names_a_path_outside_is_not_used(tmp_path, name):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ratings.csv", "a")
        archive.writestr(zipfile.ZipInfo(name), "a")
    with pytest.raises(InputError, match="outside itself; it is not used"):
        intake.find(path, ["ratings.csv"])


def test_an_archive_with_a_link_or_a_bomb_or_two_of_a_name_is_not_used(
        tmp_path, monkeypatch):
    link = zipfile.ZipInfo("ratings.csv")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="a link or an encrypted file"):
        intake.find(tmp_path / "link.zip", ["ratings.csv"])
    monkeypatch.setattr(intake, "_MEMBER_LIMIT", 1 << 20)
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ratings.csv", b"0" * (4 << 20))
    monkeypatch.setattr(intake, "_RATIO_LIMIT", 100)
    with pytest.raises(InputError, match="inflates more than 100 times"):
        intake.find(tmp_path / "b.zip", ["ratings.csv"])
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a/ratings.csv", "a")
        archive.writestr("b/ratings.csv", "b")
    with pytest.raises(InputError, match="more than once: a/ratings.csv, b/rat"):
        intake.find(tmp_path / "two.zip", ["ratings.csv"])


def test_a_damaged_archive_is_named(tmp_path, take):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ratings.csv", "abcdefgh" * 100)
    data = path.read_bytes()
    path.write_bytes(data[:len(data) // 2])
    with pytest.raises(InputError, match=r"x\.zip is damaged or cut short"):
        intake.find(path, ["ratings.csv"])
    path.write_bytes(data.replace(b"abcdefgh", b"abcdefgX", 1))  # the checksum is wrong
    with pytest.raises(InputError, match="ratings.csv is damaged or cut short"):
        list(take.lines(intake.need(path, ["ratings.csv"])))
    with pytest.raises(InputError, match=r"gone\.zip does not exist"):
        intake.find(tmp_path / "gone.zip", ["x"])
