"""Checks, in the system-call trace of a compaction, that the order of writes protects the archive from power loss.

    power_swap.py TRACE

On power loss, a disk may lose the content of a file that is not synced, and the name of a file whose folder is not
synced. All files must therefore be durable before two folders are exchanged, and before the swap plan or an old part
is removed.
"""

import os
import re
import sys

FD = r"\d+<([^>]*)>"
WRITE = re.compile(rf"write\({FD}")
SYNC = re.compile(rf"(?:fsync|fdatasync)\({FD}\) *= 0")
CREATE = re.compile(rf'openat\([^,]*, "[^"]*", [^)]*O_CREAT[^)]*\) = {FD}')
RENAME = re.compile(r'rename\w*\((?:[^"]*)"([^"]*)",(?:[^"]*)"([^"]*)"[^)]*\) *= 0')
LINK = re.compile(r'linkat?\((?:[^"]*)"[^"]*",(?:[^"]*)"([^"]*)"[^)]*\) *= 0')
UNLINK = re.compile(r'unlink(?:at)?\((?:\d+<([^>]*)>|[^"]*)[, ]*"([^"]*)"[^)]*\) *= 0')

dirty, unnamed = set(), set()
exchanges = removed = 0


def check(line):
    # Neither the program's output nor the lock file needs to be durable.
    unsure = {path for path in dirty | unnamed if "/library/" in path and not path.endswith("/lock")}
    if unsure:
        sys.exit(f"not safe on power loss: {sorted(unsure)} are not durable before: {line}")


lines = [line.split(" ", 1)[1].strip() for line in open(sys.argv[1]).read().splitlines()]
home = next(re.search(r"AT_FDCWD<([^>]*)>", line).group(1) for line in lines if "AT_FDCWD<" in line)
for line in lines:
    if match := SYNC.match(line):
        dirty.discard(match.group(1))
        unnamed = {name for name in unnamed if os.path.dirname(name) != match.group(1)}
    elif match := WRITE.match(line):
        dirty.add(match.group(1))
    elif match := CREATE.match(line):
        unnamed.add(match.group(1))
    elif match := LINK.match(line):
        unnamed.add(os.path.join(home, match.group(1)))
    elif match := RENAME.match(line):
        source, target = (os.path.join(home, path) for path in match.groups())
        if "RENAME_EXCHANGE" in line:
            check(line)
            exchanges += 1
            unnamed |= {source, target}
            continue
        if source in dirty:
            sys.exit(f"not safe on power loss: a file with unsynced content is renamed: {line}")
        unnamed.discard(source)
        unnamed.add(target)
    elif match := UNLINK.match(line):
        path = os.path.join(home, match.group(1) or "", match.group(2))
        unnamed.discard(path)
        if path.endswith("/swap.json") or "/swap/" in path:
            check(line)
            removed += 1

if exchanges < 2 or removed < 2 * exchanges:
    sys.exit(f"the trace contains no complete compaction: {exchanges} exchanges, {removed} removals")
print(f"{exchanges} exchanges and {removed} removals, in the right order")
