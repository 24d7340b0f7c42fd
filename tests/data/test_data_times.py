"""A wrong unit of time is told by its right name; what may be a count is let pass."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oxyrec_jax.base import InputError
from oxyrec_jax.data import prepare
from oxyrec_jax.data.intake import Intake, Place
from oxyrec_jax.data.readers import tables, times

SECOND = 1_709_287_200  # 2024-03-01 10:00:00 UTC
PER = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def read(tmp_path, texts, unit, head="user,item,at"):
    """Reads rows of these times; what `check` says is raised."""
    path = tmp_path / "log.csv"
    rows = [f"u,i{n},{text}" for n, text in enumerate(texts)]
    path.write_text("\n".join([head, *rows, ""]))
    with Intake(tmp_path / "q.jsonl", 0.01) as take:
        log = tables.read_table(Place(path), None, take, time_unit=unit,
                                columns=tables.TableColumns(time="at"))
    take.check()
    return log


@pytest.mark.parametrize("said", PER)
@pytest.mark.parametrize("true", PER)
def test_every_unit_read_as_another_names_the_right_one(tmp_path, true, said):
    texts = [str((SECOND + day * 86_400) * PER[true]) for day in range(40)]
    if said == true:
        assert read(tmp_path, texts, said).columns["time"][0] == SECOND
        return
    with pytest.raises(InputError, match=(
            rf"log.csv: column 'at' holds times such as {texts[2]}, which data.time_"
            rf"unit={said} puts .*; in .* on 2024-03-03: add --set "
            rf"data.time_unit={true}$")):
        read(tmp_path, texts, said)


@pytest.mark.parametrize("first, unit, said", [
    ("2024-03-01 10:00:00", "s", "holds dates such as '2024-03-01 10:00:00' .* is s; "
     "add --set data.time_unit=iso"),
    (str(SECOND), "iso", "numbers such as 1709287200 .* seconds since .*time_unit=s;"),
    (str(SECOND * 1000), "iso", "like milliseconds since 1970: .*time_unit=ms;"),
    ("1610121512345", "iso", "like milliseconds"),  # Python would read the year 1610
    ("12", "iso", "like seconds since 1970: add --set data.time_unit=s;"),
    ("01/03/2024", "s", "holds '01/03/2024', neither a whole number nor a date such"),
    ("", "s", "column 'at' is empty there; name another with --set data.columns.time"),
    ("", "iso", "column 'at' is empty there"),
])
def test_rows_that_are_all_bad_in_their_time_name_the_setting(tmp_path, first, unit,
                                                              said):
    with pytest.raises(InputError, match=(
            rf"^20 of 20 rows .* line 2: bad time; .*{said}.*q\.jsonl$")):
        read(tmp_path, [first] * 20, unit)
    assert (tmp_path / "q.jsonl").read_text().count("\n") == 20


def test_dates_of_parquet_name_the_setting(tmp_path):
    when = datetime.datetime(2024, 3, 1, tzinfo=datetime.UTC)
    pq.write_table(pa.table({"user": ["u"] * 3, "item": ["a"] * 3, "at": [when] * 3}),
                   tmp_path / "x.parquet")
    cfg = prepare.DataConfig(source="table", path=str(tmp_path / "x.parquet"),
                             columns=tables.TableColumns(time="at"))
    with pytest.raises(InputError, match="add --set data.time_unit=iso"):
        prepare.prepare(cfg, tmp_path / "d")


@pytest.mark.parametrize("clock, unit", [
    (np.arange(40), "s"),                         # the n-th event
    (np.arange(40) * 86_400_000, "ms"),           # since the log began, 40 days
    (np.arange(1, 1000) * 4_102_444, "ms"),       # the same until what may be 2099
    (np.r_[0, np.full(9, SECOND)], "s"),          # one of ten forgotten
    (np.full(9, -SECOND), "s"),                   # 1915
    (np.zeros(0, np.int64), "s"),
    (np.full(9, 10**15), "iso"),
])
def test_what_may_be_meant_passes(tmp_path, clock, unit):
    assert times.check(clock, unit, "at", Place(tmp_path / "log.csv")) is None


@pytest.mark.parametrize("number, said", [
    (20240301, "on 1970-08-23; it looks like a date without hyphens: .*=iso"),
    (10**13, "into the year 318857, and no unit makes it"),  # 2286 as milliseconds
    (9 * 10**18, r"into the year \d.*, and no unit makes it likely; name the column"),
])
def test_other_numbers_that_are_no_times(tmp_path, number, said):
    with pytest.raises(InputError, match=said):
        times.check(np.full(5, number), "s", "at", Place(tmp_path / "log.csv"))


def test_dates_without_hyphens_are_dates(tmp_path):
    log = read(tmp_path, ["20240301", "20240302"], "iso")
    assert np.diff(log.columns["time"]).tolist() == [86_400]


@pytest.mark.parametrize("rows, head, said", [
    (["u,a,dear"] * 9, "user,item,paid", "column 'paid' holds 'dear', expected numbers "
     "such as 9.50; mend it, or give no data.columns.price"),
    ([",a,1"] * 9, "user,item,paid", "column 'user' is empty there; .*columns.user="),
    (["u;a"] * 9, "user,item,paid", "by ',' the header has 3 columns and that row 1; "
     "another separator is told by --set 'data.delimiter=;'"),
])
def test_other_reasons_name_their_setting_too(tmp_path, rows, head, said):
    path = tmp_path / "log.csv"
    path.write_text("\n".join([head, *rows, ""]))
    cfg = prepare.DataConfig(source="table", path=str(path),
                             columns=tables.TableColumns(price="paid"))
    with pytest.raises(InputError, match=said):
        prepare.prepare(cfg, tmp_path / "d")
    assert (tmp_path / "d.quarantine.jsonl").read_text().count("\n") == 9


def test_bad_rows_stay_until_a_run_has_others_or_none(tmp_path):
    path, kept = tmp_path / "log.csv", tmp_path / "d.quarantine.jsonl"
    path.write_text("user,item\nu,a\nu,\nu,b\nu,c\n")
    cfg = prepare.DataConfig(source="table", path=str(path), max_bad_share=0.5)
    prepare.prepare(cfg, tmp_path / "d")
    told = kept.read_text()
    assert '"no item"' in told
    path.write_text("visitor,item\nu,a\n")
    with pytest.raises(InputError, match="no column user"):
        prepare.prepare(cfg, tmp_path / "d")
    assert kept.read_text() == told
    path.write_text("user,item\nu,a\nv,b\n,c\n")
    with pytest.raises(InputError, match=r"no user with two events.*lower them; the 1 "
                       r"bad rows before that are in .*d\.quarantine\.jsonl"):
        prepare.prepare(cfg, tmp_path / "d")
    assert '"no user"' in kept.read_text()
    path.write_text("user,item\nu,a\nu,b\n")
    prepare.prepare(cfg, tmp_path / "d")
    assert not kept.exists()
