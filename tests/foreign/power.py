"""Checks, in the system-call trace of a run, that the order of writes protects the archive from power loss.

    power.py TRACE

On power loss, a disk may lose the content of a file that is not synced, and the name of a file whose folder is not
synced. The trace must therefore show the following order:

1. A file gets its final name only after its content is synced.
2. The tasks part of a segment gets its final name after the lyrics, clips and assets parts.
3. A thread that writes journal records syncs them before it makes another system call.
4. The second journal record is written only after the name of the segment file is synced.
5. A segment file is removed only after all parts of the segment and all media files are durable. A file is durable if
   its content, its name, and the names of all parent folders are synced.
"""

import os
import pathlib
import re
import sys

FD = r"\d+<([^>]*)>"
WRITE = re.compile(rf"(\d+) +(?:write|writev|pwrite64)\({FD}")
SYNC = re.compile(rf"(\d+) +(?:fsync|fdatasync)\({FD}\) *= 0")
CREATE = re.compile(rf'(\d+) +openat\([^,]*, "[^"]*", [^)]*O_CREAT[^)]*\) = {FD}')
RENAME = re.compile(r'(\d+) +rename\w*\((?:[^"]*)"([^"]*)",(?:[^"]*)"([^"]*)"[^)]*\) *= 0')
MKDIR = re.compile(r'(\d+) +mkdir\w*\((?:[^"]*)"([^"]*)"[^)]*\) *= 0')
UNLINK = re.compile(r'(\d+) +unlink\w*\((?:[^"]*)"([^"]*)"[^)]*\) *= 0')

TABLES = {"lyrics", "clips", "assets", "tasks"}

dirty = set()     # paths of files whose content is not synced
unnamed = set()   # paths of files and folders whose name is not synced
unsynced = {}     # for each thread, the segment file that it has written and not synced
published = {}    # for each part name, the parts of the tables
media = set()     # media files under their final names
records = 0
removed = 0


def check(condition, *words):
    if not condition:
        sys.exit("not safe on power loss: " + " ".join(str(word) for word in words))


def absolute(path):
    return path if path.startswith("/") else os.path.join(home, path)


def whole(lines):
    """Yields the system calls in order of completion. strace splits a call if another thread makes a call meanwhile."""
    begun = {}
    for line in lines:
        thread = line.split(" ", 1)[0]
        if line.endswith(" <unfinished ...>"):
            begun[thread] = line.removesuffix(" <unfinished ...>")
        elif match := re.match(r"\d+ +<\.\.\. \w+ resumed>(.*)", line):
            yield begun.pop(thread) + match.group(1)
        else:
            yield line


def is_unsure(path):
    return path in dirty or any(str(name) in unnamed for name in [path, *pathlib.Path(path).parents])


def part(path):
    return os.path.basename(path).split(".")[0]


lines = open(sys.argv[1]).read().splitlines()
home = next(re.search(r"AT_FDCWD<([^>]*)>", line).group(1) for line in lines if "AT_FDCWD<" in line)
for line in whole(lines):
    thread = line.split(" ", 1)[0]
    if match := SYNC.match(line):
        path = match.group(2)
        dirty.discard(path)
        unnamed = {name for name in unnamed if os.path.dirname(name) != path}
        if unsynced.get(thread) == path:
            del unsynced[thread]
        continue
    check(thread not in unsynced, "a journal write is not synced before:", line)
    if match := CREATE.match(line):
        unnamed.add(match.group(2))
    elif match := MKDIR.match(line):
        unnamed.add(absolute(match.group(2)))
    elif match := WRITE.match(line):
        path = match.group(2)
        dirty.add(path)
        if path.endswith(".journal"):
            records += 1
            check(records == 1 or path not in unnamed, "the name of the journal is not synced:", line)
            unsynced[thread] = path
    elif match := RENAME.match(line):
        source, target = absolute(match.group(2)), absolute(match.group(3))
        check(source not in dirty, "a file with unsynced content is renamed:", line)
        unnamed.discard(source)
        unnamed.add(target)
        table = os.path.basename(os.path.dirname(target))
        if "/media/" in target:
            media.add(target)
        if table in TABLES:
            tables = published.setdefault(part(target), {})
            check("tasks" not in tables, "a part gets its name after the tasks part:", line)
            tables[table] = target
    elif match := UNLINK.match(line):
        path = absolute(match.group(2))
        if path.endswith(".journal"):
            removed += 1
            tables = published.get(part(path), {})
            check(set(tables) == TABLES, "a journal is removed when only these tables have a part:", sorted(tables))
            lost = [name for name in media | set(tables.values()) if is_unsure(name)]
            check(not lost, "a journal is removed before these files are synced:", lost)

check(media, "the trace contains no media files")
check(records > 1 and removed == 1, "the trace contains no complete run:", records, "writes,", removed, "removals")
parts = sum(len(tables) for tables in published.values())
print(f"{records} journal writes, {parts} parts and {len(media)} media files, in the right order")
