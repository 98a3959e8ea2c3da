"""Runs each query of a file in DuckDB over an archive's views, and wants an answer from each.

    queries.py ARCHIVE QUERIES
"""

import os
import pathlib
import re
import sys

import duckdb

archive, queries = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).read_text()
os.chdir(archive)
connection = duckdb.connect()
connection.execute(pathlib.Path("views.sql").read_text())
statements = [part.strip() for part in re.sub(r"^--.*\n", "", queries, flags=re.M).split(";") if part.strip()]
if len(statements) < 10:
    sys.exit(f"only {len(statements)} queries")
for statement in statements:
    rows = connection.execute(statement).fetchall()
    if not rows:
        sys.exit(f"no rows from:\n{statement}")
    print(f"{len(rows)} rows from: {statement.splitlines()[0]}")
