"""Checks every row, type and value in an archive with DuckDB and pyarrow.

    judge.py ARCHIVE DOCUMENTS

The script computes the expected rows from the documents according to the format specification, and uses none of the
program's code. It reports the first difference and exits with status 1.
"""

import hashlib
import json
import math
import pathlib
import re
import sys
import threading
from datetime import datetime, timedelta, timezone

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

TEXT, JSON, DOUBLE, INT, LONG, BOOL, TIME = (
    "VARCHAR", "JSON", "DOUBLE", "INTEGER", "BIGINT", "BOOLEAN", "TIMESTAMP WITH TIME ZONE")

COLUMNS = {
    "tasks": dict(task_id=TEXT, model=TEXT, type=TEXT, status=TEXT, credits_cost=DOUBLE, prompt=TEXT, instrumental=BOOL,
                  error=TEXT, progress=TEXT, clip_count=INT, created_at=TIME, completed_at=TIME, fetched_at=TIME,
                  run_id=TEXT, input=JSON, response=JSON),
    "clips": dict(clip_id=TEXT, task_id=TEXT, clip_index=INT, model=TEXT, type=TEXT, title=TEXT, duration_seconds=DOUBLE,
                  tags=TEXT, lyrics=TEXT, model_version=TEXT, audio_url=TEXT, image_url=TEXT, video_url=TEXT,
                  created_at=TIME, completed_at=TIME, fetched_at=TIME, run_id=TEXT, metadata=JSON, clip=JSON),
    "lyrics": dict(task_id=TEXT, model=TEXT, title=TEXT, text=TEXT, created_at=TIME, completed_at=TIME, fetched_at=TIME,
                   run_id=TEXT, result=JSON),
    "assets": dict(task_id=TEXT, clip_id=TEXT, kind=TEXT, url=TEXT, status=TEXT, path=TEXT, bytes=LONG, sha256=TEXT,
                   content_type=TEXT, http_status=INT, attempts=INT, error=TEXT, downloaded_at=TIME, run_id=TEXT),
}
ARROW = {TEXT: pa.string(), JSON: pa.string(), DOUBLE: pa.float64(), INT: pa.int32(), LONG: pa.int64(), BOOL: pa.bool_(),
         TIME: pa.timestamp("us", tz="UTC")}
FINAL = ("success", "failure", "timeout")
CLIP_ENDED = ("complete", "completed", "success", "error", "failed", "failure", "timeout")
MIME = {"mp3": "audio/mpeg", "jpeg": "image/jpeg", "png": "image/png"}

# ---------------------------------------------------------------- expected rows, from the documents

DECODER = json.JSONDecoder()
SPACE = re.compile(r"[ \t\r\n]*")


def skip(text, at):
    return SPACE.match(text, at).end()


def members(raw):
    """Returns the members of a JSON object as raw text. For a duplicate key, the last value is returned."""
    found, at = {}, skip(raw, 1)
    while raw[at] != "}":
        key, at = DECODER.raw_decode(raw, skip(raw, at))
        start = skip(raw, skip(raw, at) + 1)
        _, end = DECODER.raw_decode(raw, start)
        found[key] = raw[start:end]
        at = skip(raw, end)
        at += raw[at] == ","
    return found


def without(raw, name):
    """Returns a JSON object without the members that have the given name. If there are none, the text is unchanged."""
    kept, at, found = [], skip(raw, 1), False
    while raw[at] != "}":
        key, at = DECODER.raw_decode(raw, skip(raw, at))
        start = skip(raw, skip(raw, at) + 1)
        _, end = DECODER.raw_decode(raw, start)
        if key == name:
            found = True
        else:
            kept.append(f"{json.dumps(key, ensure_ascii=False)}:{raw[start:end]}")
        at = skip(raw, end)
        at += raw[at] == ","
    return "{" + ",".join(kept) + "}" if found else raw


def elements(raw):
    """Returns the elements of a JSON array as raw text. An object counts as an array with one element."""
    if raw is None or raw[0] not in "[{":
        return []
    if raw[0] == "{":
        return [raw]
    found, at = [], skip(raw, 1)
    while raw[at] != "]":
        start = skip(raw, at)
        _, end = DECODER.raw_decode(raw, start)
        found.append(raw[start:end])
        at = skip(raw, end)
        at += raw[at] == ","
    return found


def first_object(raw):
    return next((element for element in elements(raw) if element[0] == "{"), None)


def fields(raw):
    raw = first_object(raw)
    return members(raw) if raw else {}


def as_text(raw):
    if raw is None:
        return None
    if raw[0] == '"':
        return json.loads(raw)
    return raw if raw[0] in "-0123456789" else None


def as_number(raw):
    text = as_text(raw)
    if text is None or not re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def as_time(raw):
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)?", as_text(raw) or "")
    if not match:
        return None
    date, clock, fraction, zone = match.groups()
    micros = int(((fraction or "") + "000000")[:6])
    zone = "+00:00" if zone in (None, "Z", "z") else zone
    return datetime.fromisoformat(f"{date}T{clock}{zone}").astimezone(timezone.utc) + timedelta(microseconds=micros)


def filled(text):
    return text or None


def repaired(body):
    """Returns the body with lone surrogate escapes replaced by U+FFFD."""
    def one(match):
        escape = match.group()
        return "\\ufffd" if len(escape) == 6 and re.match(r"\\u[dD][89a-fA-F]", escape) else escape
    return re.sub(r"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u....|\\.", one, body)


def expected_rows(documents):
    tables = {"tasks": [], "clips": [], "lyrics": [], "assets": []}
    for path in sorted(pathlib.Path(documents).glob("*.json")):
        body = repaired(path.read_text(encoding="utf-8")).strip()
        data = members(body).get("data", body)
        task = fields(data)
        task_id = "doc-" + path.stem
        if as_text(task.get("task_id")) != task_id or as_text(task.get("status")) not in FINAL:
            continue
        given, output = fields(task.get("input")), fields(task.get("output"))
        result, kind = output.get("result"), as_text(task.get("type"))
        common = dict(task_id=task_id, model=as_text(task.get("model")), created_at=as_time(task.get("created_at")),
                      completed_at=as_time(task.get("completed_at")))
        clips = [(index, raw) for index, raw in enumerate(elements(result)) if raw[0] == "{"]
        clips = clips if kind in ("music", "upload", "concat") else []
        instrumental = {"true": True, "false": False}.get(given.get("make_instrumental"))
        if instrumental is None and as_text(given.get("lyrics_type")) is not None:
            instrumental = as_text(given.get("lyrics_type")) == "instrumental"
        tables["tasks"].append(dict(
            common, type=kind, status=as_text(task.get("status")), credits_cost=as_number(task.get("credits_cost")),
            prompt=filled(as_text(given.get("gpt_description_prompt"))) or filled(as_text(given.get("prompt"))),
            instrumental=instrumental,
            error=filled(as_text(task.get("error"))) or as_text(output.get("fail_reason")),
            progress=as_text(output.get("progress")), clip_count=len(clips), input=first_object(task.get("input")),
            response=data))
        for index, raw in clips:
            clip = members(raw)
            meta = fields(clip.get("metadata"))
            tables["clips"].append(dict(
                common, type=kind, clip_id=as_text(clip.get("id")), clip_index=index, title=as_text(clip.get("title")),
                duration_seconds=as_number(meta.get("duration")), tags=as_text(meta.get("tags")),
                lyrics=as_text(meta.get("prompt")),
                model_version=filled(as_text(clip.get("model_name"))) or as_text(clip.get("major_model_version")),
                audio_url=as_text(clip.get("audio_url")), image_url=as_text(clip.get("image_url")),
                video_url=as_text(clip.get("video_url")), metadata=first_object(clip.get("metadata")),
                clip=without(raw, "metadata")))
            for what in ("audio", "image"):
                url = as_text(clip.get(f"{what}_url"))
                nothing = not (url or "").strip() or re.search(r"(/|_)None\.\w+$", url)
                state = (as_text(clip.get("status")) or "").strip().lower()
                made = not state or state in CLIP_ENDED
                status = "failed" if not made else "skipped" if nothing else "ok" if url.startswith("http") else "failed"
                tables["assets"].append(dict(task_id=task_id, clip_id=as_text(clip.get("id")), kind=what, url=url,
                                             status=status))
        if kind == "lyrics" and first_object(result):
            lyrics = fields(result)
            tables["lyrics"].append(dict(common, title=as_text(lyrics.get("title")), text=as_text(lyrics.get("text")),
                                         result=first_object(result)))
    return tables


# ---------------------------------------------------------------- actual rows, from the readers

class Different(Exception):
    pass


def check(condition, *words):
    if not condition:
        raise Different(" ".join(str(word) for word in words))


def compare(reader, table, rows, expected):
    """Compares rows (dicts) with the expected rows. Run IDs and run-specific times must only be plausible."""
    place = lambda row: (row["task_id"], row.get("clip_index") or 0, row.get("clip_id") or "", row.get("kind") or "")
    rows, expected = sorted(rows, key=place), sorted(expected, key=place)
    check([place(row) for row in rows] == [place(row) for row in expected], reader, table, "rows:",
          [place(row) for row in rows], "expected:", [place(row) for row in expected])
    for row, wanted in zip(rows, expected):
        check(re.fullmatch(r"\d{8}T\d{9}Z-[a-z0-9]+", row["run_id"]), reader, table, "run_id:", row["run_id"])
        if table != "assets" or row["status"] == "ok":
            when = row["downloaded_at" if table == "assets" else "fetched_at"]
            check(timedelta(0) <= datetime.now(timezone.utc) - when < timedelta(hours=1), reader, table, "time:", when)
        for column, value in wanted.items():
            check(row[column] == value and type(row[column]) is type(value), reader, table, place(row), column + ":",
                  repr(row[column]), "expected:", repr(value))


def run_duckdb(archive, query):
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"SET file_search_path = '{archive}'")
    connection.execute((archive / "views.sql").read_text())
    result = connection.execute(query)
    names = [column[0] for column in result.description]
    return [dict(zip(names, row)) for row in result.fetchall()]


def judge_files(archive, rows):
    """Checks that each downloaded file matches its row, and that each asset row without a file states a reason."""
    for row in rows:
        if row["status"] != "ok":
            check(row["error"] and not row["path"], "an asset row without a reason:", row)
            continue
        ab, _, name = row["path"].removeprefix(f"media/{row['kind']}/").partition("/")
        content = (archive / row["path"]).read_bytes()
        check(ab == hashlib.sha256((row["clip_id"] or "").encode()).hexdigest()[:2], "path:", row["path"])
        check((row["bytes"], row["sha256"]) == (len(content), hashlib.sha256(content).hexdigest()), "bytes:", row)
        check(row["content_type"] == MIME[name.rpartition(".")[2]], "content type:", row)
        check((row["http_status"], row["attempts"], row["error"]) == (200, 1, None),
              "HTTP status, attempts or error:", row)


def utc(row):
    zoned = lambda value: value.astimezone(timezone.utc) if isinstance(value, datetime) else value
    return {name: zoned(value) for name, value in row.items()}


def judge_views(archive, table, expected):
    described = run_duckdb(archive, f"DESCRIBE {table}")
    types = {row["column_name"]: row["column_type"] for row in described}
    check(types == COLUMNS[table] and list(types) == list(COLUMNS[table]), "views.sql", table, types)
    rows = [utc(row) for row in run_duckdb(archive, f"SELECT * FROM {table}")]
    compare("DuckDB through views.sql", table, rows, expected)
    if table == "assets":
        judge_files(archive, rows)


SONGS = dict(clip_id=TEXT, title=TEXT, duration_seconds=DOUBLE, tags=TEXT, model=TEXT, created_at=TIME, task_id=TEXT,
             prompt=TEXT, lyrics=TEXT, audio_path=TEXT, cover_path=TEXT)


def judge_songs(archive, clips, tasks):
    """Checks that `songs` has one row per clip, with the prompt of the task and the paths of complete files."""
    types = {row["column_name"]: row["column_type"] for row in run_duckdb(archive, "DESCRIBE songs")}
    check(types == SONGS and list(types) == list(SONGS), "views.sql songs", types)
    prompts = {task["task_id"]: task["prompt"] for task in tasks}
    files = {(row["task_id"], row["clip_id"], row["kind"], row["url"]): row["path"]
             for row in run_duckdb(archive, "FROM assets WHERE status = 'ok'")}
    song = lambda clip: dict(
        {name: clip[name] for name in SONGS if name in clip}, prompt=prompts[clip["task_id"]],
        audio_path=files.get((clip["task_id"], clip["clip_id"], "audio", clip["audio_url"])),
        cover_path=files.get((clip["task_id"], clip["clip_id"], "image", clip["image_url"])))
    place = lambda row: json.dumps(row, sort_keys=True, default=str)
    songs = sorted((utc(row) for row in run_duckdb(archive, "FROM songs")), key=place)
    expected = sorted((song(clip) for clip in clips), key=place)
    check(len(songs) == len(expected), "songs:", len(songs), "expected:", len(expected))
    for row, wanted in zip(songs, expected):
        check(row == wanted, "songs:", row, "expected:", wanted)
    check(any(row["audio_path"] for row in songs), "no song has an audio path")


def judge_parquet(archive, table, expected):
    found = duckdb.sql(f"DESCRIBE SELECT * FROM '{archive}/{table}/*.parquet'").fetchall()
    types = {row[0]: row[1] for row in found}
    check(types == COLUMNS[table] and list(types) == list(COLUMNS[table]), "DuckDB", table, types)
    parts = sorted((archive / table).glob("*.parquet"))
    rows = []
    for part in parts:
        schema = pyarrow.parquet.ParquetFile(part).schema
        for index, (name, kind) in enumerate(COLUMNS[table].items()):
            logical = json.loads(schema.column(index).logical_type.to_json())["Type"]
            wanted = {TEXT: "String", JSON: "JSON", TIME: "Timestamp"}.get(kind, "None")
            check(logical == wanted, "pyarrow", table, name, "logical type:", logical)
        read = pyarrow.parquet.read_table(part, arrow_extensions_enabled=False)
        for name, kind in COLUMNS[table].items():
            check(read.schema.field(name).type == ARROW[kind], "pyarrow", table, name, read.schema.field(name).type)
        check(pyarrow.parquet.ParquetFile(part).metadata.row_group(0).column(0).compression == "ZSTD",
              "the part is not compressed with zstd")
        rows += read.to_pylist()
    compare("pyarrow", table, [utc(row) for row in rows], expected)


def judge_csv(archive, table, expected):
    """Compares the CSV values as text, which also checks their format."""
    spell = {DOUBLE: lambda value: repr(float(value)), INT: str, LONG: str, BOOL: lambda value: str(value).lower()}
    rows = []
    for part in sorted((archive / table).glob("*.csv")):
        header = part.read_bytes().split(b"\r\n", 1)[0].decode()
        check(header == ",".join(COLUMNS[table]), "CSV header", table, header)
        options = pyarrow.csv.ConvertOptions(column_types={name: pa.string() for name in COLUMNS[table]},
                                             strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""])
        parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
        read = pyarrow.csv.read_csv(part, convert_options=options, parse_options=parse,
                                    read_options=pyarrow.csv.ReadOptions(block_size=1 << 26))
        rows += read.to_pylist()
    for row in rows:
        for name, kind in COLUMNS[table].items():
            if kind == TIME and row[name] is not None:
                check(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", row[name]), "CSV time", row[name])
                row[name] = as_time(json.dumps(row[name]))
    wanted = []
    for row in expected:
        kinds = COLUMNS[table]
        wanted.append({name: spell[kinds[name]](value) if kinds[name] in spell and value is not None
                       else value.replace("\0", "\ufffd") if isinstance(value, str) else value
                       for name, value in row.items()})
    for row in rows + wanted:
        if "clip_index" in row:
            row["clip_index"] = int(row["clip_index"])
    compare("pyarrow's CSV reader", table, rows, wanted)


def main():
    archive, documents = pathlib.Path(sys.argv[1]), sys.argv[2]
    table_format = json.loads((archive / "archive.json").read_text())["table_format"]
    tables = expected_rows(documents)
    for table, expected in tables.items():
        check(expected, "the documents contain no rows for", table)
        if table_format == "parquet":
            judge_parquet(archive, table, expected)
        else:
            judge_csv(archive, table, expected)
            expected = [{name: value.replace("\0", "\ufffd") if isinstance(value, str) else value
                         for name, value in row.items()} for row in expected]
            tables[table] = expected
        judge_views(archive, table, expected)
        print(f"{table}: {len(expected)} rows, as expected")
    judge_songs(archive, tables["clips"], tables["tasks"])


def guarded():
    try:
        main()
        codes.append(0)
    except Different as difference:
        print(f"different: {difference}", file=sys.stderr)


if __name__ == "__main__":
    # Some documents are nested too deeply for Python's default recursion limit and stack size.
    sys.setrecursionlimit(100_000)
    threading.stack_size(512 << 20)
    codes = []
    judge = threading.Thread(target=guarded)
    judge.start()
    judge.join()
    sys.exit(codes[0] if codes else 1)
