"""Blocks of text columns from CSV and Parquet files, with the number of every row.

Columns come as text whatever their type in the file, so that one set of checks decides
which rows are bad. Rows are numbered from 1 as records: the header of a CSV file is
number 1, a quoted field may span lines.
"""

import csv
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from oxyrec_jax import progress
from oxyrec_jax.base import InputError
from oxyrec_jax.data.intake import Intake, Place

Block = tuple[np.ndarray, dict[str, pa.Array]]
_BLOCK_BYTES = 16 << 20
_BLOCK_ROWS = 1 << 18


def is_parquet(place: Place) -> bool:
    """Whether the name says that the file is Parquet."""
    return pathlib.PurePath(place.name).suffix in (".parquet", ".pq")


def blocks(place: Place, intake: Intake, wanted: Sequence[str], *,
           delimiter: str = "") -> Iterator[Block]:
    """Reads columns of a CSV (TSV, …) or Parquet file block by block.

    Args:
      place: the file; ".parquet" or ".pq" is Parquet, anything else CSV with a header.
      intake: keeps rows with the wrong number of fields and rows that are not UTF-8.
      wanted: the columns to read.
      delimiter: between fields; "" means a tab in ".tsv" and ".txt", else a comma.

    Yields:
      (`[n]` int64 row numbers, name to `[n]` string array; null where Parquet has it).

    Raises:
      InputError: the file is missing, damaged, empty, or lacks a column.
    """
    if is_parquet(place):
        read = _parquet_blocks(place, intake, wanted)
    else:
        tabs = pathlib.PurePath(place.name).suffix in (".tsv", ".txt")
        read = _csv_blocks(place, intake, wanted, delimiter or ("\t" if tabs else ","))
    with progress.bar(f"reading {place.name}", None) as advance:
        for block in read:
            yield block
            advance(len(block[0]))


def whole_numbers(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Returns (`[n]` int64, `[n]` bool good) of texts; a fraction is cut off."""
    good = _matches(values, r"^-?[0-8]?\d{1,18}(\.\d*)?$")  # below 2^63
    text = pc.replace_substring_regex(_where(good, values, "0"), r"\..*$", "")
    return text.cast(pa.int64()).to_numpy(zero_copy_only=False), good


def real_numbers(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Returns (`[n]` float64, `[n]` bool good) of texts."""
    good = _matches(values, r"^-?(\d{1,30}\.?\d{0,30}|\.\d{1,30})([eE][+-]?\d{1,2})?$")
    text = _where(good, values, "0")
    return text.cast(pa.float64()).to_numpy(zero_copy_only=False), good


def sort_out(place: Place, intake: Intake, numbers: np.ndarray, reasons: np.ndarray,
             values: Mapping[str, pa.Array]) -> np.ndarray:
    """Counts the rows of a block and puts the bad ones into quarantine.

    Args:
      place: the file.
      intake: counts and keeps them.
      numbers: `[n]` int64, of the rows.
      reasons: `[n]` object: why a row is bad, "" where it is not.
      values: the block.

    Returns:
      `[n]` bool: which rows are good.
    """
    bad = np.flatnonzero(reasons != "")
    for row in bad:
        intake.reject(place, int(numbers[row]), reasons[row],
                      ", ".join(str(column[row]) for column in values.values()))
    intake.accept(len(numbers) - len(bad))
    return (reasons == "").astype(bool)


class Names:
    """Numbers names in the order in which they first appear.

    Attributes:
      index: name to number.
    """

    def __init__(self) -> None:
        self.index: dict[str, int] = {}

    def codes(self, values: pa.Array) -> np.ndarray:
        """Returns the number of each name, `[n]` int32; new names get the next ones."""
        encoded = values.dictionary_encode()
        numbers = np.fromiter(
            (self.index.setdefault(name, len(self.index))
             for name in encoded.dictionary.to_pylist()),
            np.int32, len(encoded.dictionary))
        return numbers[encoded.indices.to_numpy(zero_copy_only=False)]


def _matches(values: pa.Array, pattern: str) -> np.ndarray:
    matched = pc.match_substring_regex(values, pattern)
    return matched.fill_null(False).to_numpy(zero_copy_only=False)


def _where(good: np.ndarray, values: pa.Array, other: str) -> pa.Array:
    return pc.if_else(pa.array(good), values, other)


def _csv_blocks(place: Place, intake: Intake, wanted: Sequence[str],
                delimiter: str) -> Iterator[Block]:
    if len(delimiter) != 1:
        raise InputError(f"data.delimiter is {delimiter!r}, expected one character")
    found = next(csv.reader([intake.header(place)], delimiter=delimiter), [])
    _check_columns(place, wanted, found)
    skipped: list[int] = []

    def skip(row: pa.csv.InvalidRow) -> str:
        reason = f"expected {row.expected_columns} columns"
        intake.reject(place, row.number, reason, row.text)
        intake.explain(place, reason, f"by {delimiter!r} the header has "
                       f"{row.expected_columns} columns and that row "
                       f"{row.actual_columns}; another separator is told by --set "
                       "'data.delimiter=;'")
        skipped.append(row.number)
        return "skip"
    with intake.open(place) as file:
        try:
            reader = pa.csv.open_csv(
                file,
                read_options=pa.csv.ReadOptions(
                    use_threads=False, block_size=_BLOCK_BYTES, column_names=found,
                    skip_rows=1),
                parse_options=pa.csv.ParseOptions(
                    delimiter=delimiter, newlines_in_values=True,
                    invalid_row_handler=skip),
                # As bytes: one row that is not UTF-8 must not cost the whole file.
                convert_options=pa.csv.ConvertOptions(
                    include_columns=list(wanted), null_values=[],
                    column_types={name: pa.binary() for name in wanted}))
            number = 2
            for batch in reader:
                numbers = _numbers(number, len(batch), skipped)
                number = int(numbers[-1]) + 1 if len(numbers) else number
                skipped = [row for row in skipped if row >= number]
                yield _decoded(place, intake, numbers, batch)
        except pa.ArrowInvalid as error:
            raise InputError(f"{place} is not a table of {', '.join(wanted)} separated "
                             f"by {delimiter!r} ({_first_line(error)})") from error


def _decoded(place: Place, intake: Intake, numbers: np.ndarray,
             batch: pa.RecordBatch) -> Block:
    try:
        return numbers, {name: batch[name].cast(pa.string())
                         for name in batch.schema.names}
    except pa.ArrowInvalid:
        good = np.array([all(_is_text(value) for value in row.values())
                         for row in batch.to_pylist()])
        for row in np.flatnonzero(~good):
            intake.reject(place, int(numbers[row]), "not utf-8 text")
        kept = batch.filter(pa.array(good))
        return numbers[good], {name: kept[name].cast(pa.string())
                               for name in batch.schema.names}


def _parquet_blocks(place: Place, intake: Intake,
                    wanted: Sequence[str]) -> Iterator[Block]:
    with intake.open(place) as file:
        try:
            table = pq.ParquetFile(file)
            _check_columns(place, wanted, table.schema_arrow.names)
            number = 1
            for batch in table.iter_batches(_BLOCK_ROWS, columns=list(wanted)):
                yield (np.arange(number, number + len(batch)),
                       {name: _as_text(batch[name]) for name in wanted})
                number += len(batch)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"{place} is not a Parquet table of {', '.join(wanted)} "
                             f"({_first_line(error)})") from error


def _as_text(values: pa.Array) -> pa.Array:
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        values = pc.strftime(values.cast(pa.timestamp("us")), "%Y-%m-%dT%H:%M:%S")
    return values.cast(pa.string())


def _numbers(first: int, count: int, skipped: Sequence[int]) -> np.ndarray:
    numbers = np.arange(first, first + count + len(skipped))
    return numbers[~np.isin(numbers, skipped)][:count]


def _check_columns(place: Place, wanted: Sequence[str], found: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise InputError(f"{place} has no column {', '.join(missing)}; it has "
                         f"{re.sub(r'[^ -~]', '?', ', '.join(found))[:200]}; say which "
                         "is which, such as --set data.columns.user=NAME of events "
                         "or data.item_columns.item=NAME of items")


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
