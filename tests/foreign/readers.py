"""Reads each table with Polars and with pandas, and checks the columns, the types and every row.

    readers.py ARCHIVE

The expected rows are read part by part with pyarrow, whose results `judge.py` checks value by value. The script reports
the first difference and exits with status 1.
"""

import json
import pathlib
import sys

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet

archive = pathlib.Path(sys.argv[1])
UTC = pa.timestamp("us", tz="UTC")
POLARS = {pa.string(): pl.String, pa.float64(): pl.Float64, pa.int32(): pl.Int32, pa.int64(): pl.Int64,
          pa.bool_(): pl.Boolean, UTC: pl.Datetime("us", "UTC")}
# In a column with nulls, pandas stores integers as floats and booleans as objects.
PANDAS = {pa.string(): {"str"}, pa.float64(): {"float64"}, pa.int32(): {"int32", "float64"},
          pa.int64(): {"int64", "float64"}, pa.bool_(): {"bool", "object"}, UTC: {"datetime64[us, UTC]"}}
JSON = {"tasks": ["input", "response"], "clips": ["metadata", "clip"], "lyrics": ["result"], "assets": []}


def check(condition, *words):
    if not condition:
        sys.exit("different: " + " ".join(str(word) for word in words))


def rows(records):
    """Returns the rows as sorted JSON strings, which can be compared with the rows of another reader."""
    return sorted(json.dumps(record, sort_keys=True, default=str) for record in records)


def expected(table):
    parts = sorted((archive / table).glob("*.parquet"))
    check(len(parts) > 1, table, "has fewer than two parts")
    read = [pyarrow.parquet.read_table(part, arrow_extensions_enabled=False) for part in parts]
    return pa.concat_tables(read)


def judge_polars(table, wanted):
    read = pl.read_parquet(archive / table / "*.parquet")
    for field in wanted.schema:
        check(read.schema[field.name] == POLARS[field.type], "Polars", table, field.name, read.schema[field.name])
    check(read.columns == wanted.column_names, "Polars", table, read.columns)
    check(rows(read.to_dicts()) == rows(wanted.to_pylist()), "Polars", table, "rows")
    return len(read)


def judge_pandas(table, wanted):
    read = pd.read_parquet(archive / table)
    check(list(read.columns) == wanted.column_names, "pandas", table, list(read.columns))
    for field in wanted.schema:
        # pyarrow reads a JSON column as an extension type, and pandas stores the values as objects of type str.
        types = {"object"} if field.name in JSON[table] else PANDAS[field.type]
        check(str(read[field.name].dtype) in types, "pandas", table, field.name, read[field.name].dtype)
    check(len(read) == len(wanted), "pandas", table, len(read), "rows, expected:", len(wanted))
    for field in wanted.schema:
        name, whole = field.name, pa.types.is_integer(field.type)
        values = [None if pd.isna(value) else int(value) if whole else plain(value) for value in read[name]]
        check(rows(values) == rows(wanted[name].to_pylist()), "pandas", table, name)
    return len(read)


def plain(value):
    """Converts a pandas value to a plain Python value."""
    if isinstance(value, pd.Timestamp):
        return value.to_pydatetime()
    return value.item() if hasattr(value, "item") else value


for table, documents in JSON.items():
    wanted = expected(table)
    counts = judge_polars(table, wanted), judge_pandas(table, wanted)
    for reader in (pl.read_parquet(archive / table / "*.parquet"), pd.read_parquet(archive / table)):
        for column in documents:
            texts = [text for text in reader[column].to_list() if isinstance(text, str)]
            check(texts and all(isinstance(json.loads(text), dict) for text in texts), table, column, "is not JSON text")
    print(f"{table}: {counts} rows, as expected")
