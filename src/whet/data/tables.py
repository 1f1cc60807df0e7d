"""Reads rows from files, renames their columns, and says exactly what is wrong with a row that cannot be used."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.data.rows import missing_column
from whet.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
TEXT_COLUMNS = frozenset({"prompt", "completion", "answer", "text", "chosen", "rejected"})
"""Columns that must hold text in every row once a source maps them."""
CHAT_COLUMNS = frozenset({"prompt", "completion", "chosen", "rejected"})
"""Those of them that may hold a list of messages instead."""

Rows = list[tuple[str, dict[str, Any]]]
"""Rows with where each stands: ``line 3`` or ``row 3``."""


def read_rows(path: Path) -> Rows:
    """Rows of a JSONL, JSON, CSV, TSV or Parquet file (the text formats also with ``.gz``), each with where it stands.

    Raises:
        DataError: no such file, an unknown ending, an empty file, or a damaged row; names the file and the line.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: cannot read a file ending in {suffix!r}; known: {', '.join(SUFFIXES)}")
    if suffix == ".parquet":
        rows = _parquet(path)
    else:
        data = read_bytes(path)
        read = {".json": _json, ".csv": _csv, ".tsv": _csv}.get(suffix, _jsonl)
        rows = read(path, data)
    if not rows:
        raise DataError(f"{path}: the file holds no rows")
    return rows


def read_bytes(path: Path) -> bytes:
    """The file's content, unpacked if it ends in ``.gz``.

    Raises:
        DataError: no such file (files nearby are named), or a damaged archive.
    """
    import gzip
    import zlib

    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*") if p.is_file())[:10] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file{'. The folder holds: ' + ', '.join(near) if near else ''}")
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.name.endswith(".gz") else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot read it: {error}") from error


def decode(data: bytes, where: str) -> str:
    """UTF-8 text, a byte-order mark removed.

    Raises:
        DataError: other bytes; names ``where``.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8 (byte {error.start}: {data[error.start : error.start + 8]!r}); save the file as UTF-8"
        ) from error


def _jsonl(path: Path, data: bytes) -> Rows:
    rows = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            where = f"line {number}"
            rows.append((where, _object(_parse(decode(line, f"{path}:{number}"), f"{path}:{number}"), f"{path}:{number}")))
    return rows


def _json(path: Path, data: bytes) -> Rows:
    value = _parse(decode(data, str(path)), str(path))
    if isinstance(value, dict):
        lists = [key for key, item in value.items() if isinstance(item, list)]
        if len(lists) != 1:
            raise DataError(
                f"{path}: expected a list of rows, or an object with one list; this has lists in: {', '.join(lists) or 'no key'}"
            )
        value = value[lists[0]]
    if not isinstance(value, list):
        raise DataError(f"{path}: expected a list of rows, got {type(value).__name__}")
    return [(f"row {number}", _object(row, f"{path}: row {number}")) for number, row in enumerate(value, 1)]


def _csv(path: Path, data: bytes) -> Rows:
    text = decode(data, str(path))
    separator = "\t" if ".tsv" in path.suffixes else ","
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: Rows = []
    try:
        names = list(reader.fieldnames or ())
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise DataError(f"{path}:1: the column {twice!r} stands twice in the header; rename one")
        for row in reader:
            where = f"line {reader.line_num}"
            if None in row or None in row.values():
                raise DataError(
                    f"{path}:{reader.line_num}: {len(reader.fieldnames or ())} columns in the header, but another number here"
                )
            rows.append((where, dict(row)))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV: {error}; are quotes closed?") from error
    return rows


def _parquet(path: Path) -> Rows:
    import pyarrow
    from pyarrow import parquet

    if not path.is_file():
        read_bytes(path)
    try:
        rows = parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from error
    return [(f"row {number}", row) for number, row in enumerate(rows, 1)]


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}; it begins {text.strip()[:60]!r}. Way out: correct or remove it") from error


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} is given twice")
    return found


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f'{where}: expected an object such as {{"prompt": "...", "completion": "..."}}, got {type(value).__name__}'
        )
    return value


def map_columns(rows: Rows, columns: Mapping[str, str] | None, name: str, *, numbers_as_text: bool = False) -> Rows:
    """Renames columns and checks that the mapped ones hold what they must.

    Args:
        rows: from :func:`read_rows`.
        columns: whet's name -> the file's name; columns that are not named keep theirs.
        name: the file or dataset, for messages.
        numbers_as_text: numbers in text columns become their text instead of an error.

    Raises:
        DataError: a mapped column that a row lacks (nearest right name given), or a cell that is no text.
    """
    columns = dict(columns or {})
    taken = {source for target, source in columns.items() if target != source}
    result: Rows = []
    for where, row in rows:
        for target, source in columns.items():
            if source not in row:
                raise DataError(f"{name}, {where}: {missing_column(source, row, target)}")
        mapped = {key: value for key, value in row.items() if key not in taken or key in columns}
        mapped.update({target: row[source] for target, source in columns.items()})
        for column in TEXT_COLUMNS & mapped.keys():
            mapped[column] = _text(mapped[column], column, f"{name}, {where}", column in columns, numbers_as_text)
        result.append((where, mapped))
    return result


def _text(value: Any, column: str, where: str, mapped: bool, numbers_as_text: bool) -> Any:
    if numbers_as_text and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if value is None and not mapped:
        return None
    if isinstance(value, str):
        return _storable(value, f"{where}, column {column!r}")
    if isinstance(value, list) and column in CHAT_COLUMNS:
        return value
    got = "nothing (null)" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"
    advice = "; set `numbers_as_text: true` in the source to use numbers as text" if isinstance(value, (int, float)) else ""
    raise DataError(f"{where}, column {column!r}: expected text, got {got}{advice}")


def _storable(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {text[max(0, error.start - 10) : error.end + 10]!r} holds half of a surrogate pair") from error
    return text


def to_dataset(rows: Iterable[Mapping[str, Any]], name: str) -> Dataset:
    """A dataset of the rows; a row without a column that others have gets null.

    Raises:
        DataError: no rows, or a column of mixed types; names the column and the row.
    """
    import pyarrow
    from datasets import Dataset

    rows = list(rows)
    if not rows:
        raise DataError(f"{name}: no rows")
    names = dict.fromkeys(key for row in rows for key in row)
    if not names:
        raise DataError(f"{name}: the rows have no columns")
    arrays = {}
    for column in names:
        try:
            arrays[column] = pyarrow.array([row.get(column) for row in rows])
        except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError) as error:
            raise DataError(f"{name}, column {column!r}: {_odd_one([row.get(column) for row in rows])} ({error})") from error
    try:
        return Dataset(pyarrow.table(arrays))
    except (pyarrow.ArrowException, ValueError, TypeError) as error:
        raise DataError(f"{name}: the rows cannot be stored ({error}); is a column's name damaged?") from error


def _odd_one(values: Sequence[Any]) -> str:
    kinds = [type(value).__name__ for value in values]
    first = next((kind for kind in kinds if kind != "NoneType"), "NoneType")
    odd = next((i for i, kind in enumerate(kinds) if kind not in (first, "NoneType")), None)
    if odd is None:
        return "its values cannot be stored"
    return f"row 1 holds {first}, but row {odd + 1} holds {kinds[odd]} {str(values[odd])[:60]!r}; a column has one type"
