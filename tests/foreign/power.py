"""Judges the order of a run's writes against power loss, from a trace of its system calls.

    power.py TRACE

A disk may forget everything that was not synced: a file's content until the file was, a name until its
folder was. So, at every moment of the trace:

1. what gets a final name has its content synced;
2. of one part, tasks get their name after lyrics, clips and assets;
3. a journal's records are synced by the same thread that wrote them, before it does anything else;
4. a second record is written only when the journal's own name is synced;
5. a journal is removed only when every part of its segment, and every media file, is there for good:
   content, name, and the names of the folders above it.
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

dirty = set()     # paths whose content is not synced
unnamed = set()   # paths whose name is not synced
unsynced = {}     # thread: the journal that it wrote to last, and has not synced
published = {}    # part: the tables that have it
media = set()     # media files with their final names
records = 0
removed = 0


def check(condition, *words):
    if not condition:
        sys.exit("against power loss: " + " ".join(str(word) for word in words))


def absolute(path):
    return path if path.startswith("/") else os.path.join(home, path)


def whole(lines):
    """The calls in the order of their ends: strace cuts one in two where another thread comes between."""
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
    check(thread not in unsynced, "a journal was written and not synced before:", line)
    if match := CREATE.match(line):
        unnamed.add(match.group(2))
    elif match := MKDIR.match(line):
        unnamed.add(absolute(match.group(2)))
    elif match := WRITE.match(line):
        path = match.group(2)
        dirty.add(path)
        if path.endswith(".journal"):
            records += 1
            check(records == 1 or path not in unnamed, "the journal's name is not synced:", line)
            unsynced[thread] = path
    elif match := RENAME.match(line):
        source, target = absolute(match.group(2)), absolute(match.group(3))
        check(source not in dirty, "a name for content that is not synced:", line)
        unnamed.discard(source)
        unnamed.add(target)
        table = os.path.basename(os.path.dirname(target))
        if "/media/" in target:
            media.add(target)
        if table in TABLES:
            tables = published.setdefault(part(target), {})
            check("tasks" not in tables, "a part after its tasks:", line)
            tables[table] = target
    elif match := UNLINK.match(line):
        path = absolute(match.group(2))
        if path.endswith(".journal"):
            removed += 1
            tables = published.get(part(path), {})
            check(set(tables) == TABLES, "a journal removed with only", sorted(tables))
            lost = [name for name in media | set(tables.values()) if is_unsure(name)]
            check(not lost, "a journal removed before these were synced:", lost)

check(media, "the trace shows no media")
check(records > 1 and removed == 1, "the trace shows no whole run:", records, "writes,", removed, "removals")
parts = sum(len(tables) for tables in published.values())
print(f"{records} journal writes, {parts} parts and {len(media)} media files, in the right order")
