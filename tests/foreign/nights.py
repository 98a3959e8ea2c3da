"""Adds nightly runs to an archive that contains one run. Each added run consists of copies of the original parts, with
new IDs and earlier times.

    nights.py ARCHIVE NIGHTS
"""

import datetime
import pathlib
import sys

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

archive, nights = pathlib.Path(sys.argv[1]), int(sys.argv[2])
for table in ("tasks", "clips", "lyrics", "assets"):
    for part in archive.glob(f"{table}/*.parquet"):
        first = pq.read_table(part)
        for night in range(1, nights):
            day, rows = datetime.timedelta(days=night), first
            for place, field in enumerate(first.schema):
                column = first.column(place)
                if field.name in ("task_id", "clip_id"):
                    rows = rows.set_column(place, field, pc.binary_join_element_wise(f"{night}", column, "-"))
                elif pa.types.is_timestamp(field.type):
                    rows = rows.set_column(place, field, pc.cast(pc.subtract(column, pa.scalar(day)), field.type))
            when = datetime.datetime(2026, 1, 1, 3) - day
            name = f"{when:%Y%m%dT%H%M%S}000Z-abcdef-0001.parquet"
            pq.write_table(rows, part.with_name(name), compression="zstd", store_schema=False)
