"""Runs each query in a file with DuckDB and the views of an archive. Every query must return rows, unless its comment
contains "Normally none". The script then runs the whole file in the DuckDB shell, as the comment at its top describes.

    queries.py ARCHIVE QUERIES
"""

import os
import pathlib
import re
import subprocess
import sys

import duckdb

archive, file = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
queries = file.read_text()
os.chdir(archive)
connection = duckdb.connect()
connection.execute(pathlib.Path("views.sql").read_text())
statements = [part.strip() for part in re.split(r";\s*\n", queries) if part.strip()]
if len(statements) < 15:
    sys.exit(f"only {len(statements)} queries")
for statement in statements:
    rows = connection.execute(statement).fetchall()
    if not rows and "Normally none" not in statement:
        sys.exit(f"no rows from:\n{statement}")
    print(f"{len(rows)} rows from: {re.sub('^--.*$', '', statement, flags=re.M).strip().splitlines()[0]}")
shell = pathlib.Path(sys.executable).parent / "duckdb"
subprocess.run([shell, "-bail", "-init", "views.sql", "-c", f".read '{file}'"], check=True, stdout=subprocess.DEVNULL)
