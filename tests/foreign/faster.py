"""Measures how much faster the queries in a file run on one archive than on another archive.

    faster.py SLOW FAST QUERIES
"""

import os
import pathlib
import re
import statistics
import sys
import time

import duckdb

archives = [pathlib.Path(path).resolve() for path in sys.argv[1:3]]
queries = re.sub(r"^--.*\n", "", pathlib.Path(sys.argv[3]).read_text(), flags=re.M)
statements = [part.strip() for part in queries.split(";") if part.strip()]
# Queries over run summaries are skipped, because they do not read the tables.
statements = [statement for statement in statements if "runs/" not in statement]


def seconds(archive):
    """Runs each query three times, in a new session each time, and returns the shortest time per query."""
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


slow, fast = (seconds(archive) for archive in archives)
for statement, one, other in zip(statements, slow, fast):
    print(f"{one:.3f} s, {other:.3f} s: {one / other:.1f} times as fast: {statement.splitlines()[0]}")
median = statistics.median(one / other for one, other in zip(slow, fast))
print(
    f"{len(statements)} queries: {sum(slow):.2f} s before, {sum(fast):.2f} s after: "
    f"{sum(slow) / sum(fast):.1f} times as fast (median {median:.1f})"
)
