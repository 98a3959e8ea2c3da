"""Compares a compacted archive with the original archive. The rows and schemas must be the same. Row groups must be
large enough for DuckDB and must not overlap in time.

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
    spans = []
    for part in new:
        metadata = pq.read_metadata(part)
        groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
        rows = [group.num_rows for group in groups]
        if any(count < 100_000 for count in rows[:-1]):
            sys.exit(f"{part} has row groups with {rows} rows")
        if str(metadata.schema).split("\n", 1)[1] != str(pq.read_metadata(old[-1]).schema).split("\n", 1)[1]:
            sys.exit(f"the schemas of {part} and {old[-1]} differ")
        time = metadata.schema.names.index("downloaded_at" if table == "assets" else "created_at")
        told = [group.column(time).statistics for group in groups]
        spans += [(statistics.min, statistics.max) for statistics in told if statistics.has_min_max]
        print(f"{table}: merged {len(old)} parts into {len(new)}, row groups of {rows}")
    # If row groups do not overlap in time, a query over one week reads only the row groups of that week.
    for one, other in zip(spans, spans[1:]):
        if one[1] > other[0]:
            sys.exit(f"{table}: row groups with the time ranges {one} and {other} overlap")
