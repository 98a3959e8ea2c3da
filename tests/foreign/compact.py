"""Holds a compacted archive against the one it was: the same rows, the same schemas, row groups as DuckDB
likes them; and says how much sooner it answers.

    compact.py BEFORE AFTER QUERIES
"""

import os
import pathlib
import re
import statistics
import sys
import time

import duckdb
import pyarrow.parquet as pq

before, after = (pathlib.Path(path).resolve() for path in sys.argv[1:3])
queries = re.sub(r"^--.*\n", "", pathlib.Path(sys.argv[3]).read_text(), flags=re.M)
statements = [part.strip() for part in queries.split(";") if part.strip()]


def seconds(archive):
    """The shortest time of three in which a new session answers each query."""
    os.chdir(archive)
    shortest = []
    for statement in statements:
        taken = []
        for _ in range(3):
            with duckdb.connect() as session:
                session.execute(pathlib.Path("views.sql").read_text())
                start = time.perf_counter()
                session.execute(statement).fetchall()
                taken.append(time.perf_counter() - start)
        shortest.append(min(taken))
    return shortest


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

slow, fast = seconds(before), seconds(after)
for statement, one, other in zip(statements, slow, fast):
    print(f"{one:.3f} s, {other:.3f} s: {one / other:.1f} times as fast: {statement.splitlines()[0]}")
median = statistics.median(one / other for one, other in zip(slow, fast))
print(f"{len(statements)} queries: {sum(slow):.2f} s before, {sum(fast):.2f} s after; {median:.1f} times as fast (median)")
