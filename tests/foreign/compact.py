"""Holds a compacted archive against the one it was: the same rows, the same schemas, row groups as DuckDB
likes them.

    compact.py BEFORE AFTER
"""

import pathlib
import sys

import duckdb
import pyarrow.parquet as pq

before, after = (pathlib.Path(path).resolve() for path in sys.argv[1:3])

for table in ("tasks", "clips", "lyrics", "assets"):
    old, new = sorted(before.glob(f"{table}/*.parquet")), sorted(after.glob(f"{table}/*.parquet"))
    if not old:
        continue
    for one, other in (before, after), (after, before):
        [(missing,)] = duckdb.execute(
            f"SELECT count(*) FROM (FROM '{one}/{table}/*.parquet' EXCEPT ALL FROM '{other}/{table}/*.parquet')"
        ).fetchall()
        if missing:
            sys.exit(f"{missing} rows of {table} in {one} are not in {other}")
    for part in new:
        metadata = pq.read_metadata(part)
        groups = [metadata.row_group(place).num_rows for place in range(metadata.num_row_groups)]
        if any(rows < 100_000 for rows in groups[:-1]):
            sys.exit(f"{part} has row groups of {groups}")
        if str(metadata.schema).split("\n", 1)[1] != str(pq.read_metadata(old[-1]).schema).split("\n", 1)[1]:
            sys.exit(f"{part} has another schema than {old[-1]}")
        print(f"{table}: {len(old)} parts are {len(new)}, row groups of {groups}")
