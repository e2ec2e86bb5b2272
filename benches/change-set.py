#!/usr/bin/env python3
"""Changes a folder as a day's work would, and back again, any number of times.

  make DIR OTHER     writes to OTHER, beside DIR, what the changed files will be:
                     2 % edited, 0.4 % renamed, 0.3 % deleted, 0.5 % added, and
                     20 edits and one insertion in the largest file
  changed OTHER      puts the changes in place
  plain OTHER        puts the folder back as it was

All is done by renames: what is not changed keeps inode and times.
"""

import json
import os
import random
import shutil
import stat
import sys


def regular_files(folder):
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                yield path


def edited(data, rng, at=None):
    at = rng.randrange(len(data) + 1) if at is None else at
    return data[:at] + b"a line that was not there: %d\n" % rng.randrange(1 << 30) + data[at:]


def write_version(path, data, like):
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, stat.S_IMODE(os.stat(like).st_mode))


def edit_large(source, target, rng):
    """20 overwritten places and, in the middle, 1,000 bytes put in between."""
    shutil.copyfile(source, target)
    size = os.path.getsize(source)
    with open(source, "rb") as old, open(target, "r+b") as new:
        old.seek(size // 2)
        new.seek(size // 2)
        new.write(rng.randbytes(1000))
        shutil.copyfileobj(old, new, 1 << 20)
        for _ in range(20):
            new.seek(rng.randrange(size))
            new.write(rng.randbytes(100))
    shutil.copymode(source, target)


def make(folder, other):
    rng = random.Random(3)
    files = list(regular_files(folder))
    large = max(files, key=os.path.getsize)
    files.remove(large)
    chosen = rng.sample(files, len(files) * 27 // 1000)
    edits, renames = len(files) * 20 // 1000, len(files) * 4 // 1000
    os.makedirs(other)
    # The largest first: borg does not remember the newest file of a run, and shall remember this one.
    swaps = [(large, os.path.join(other, "large"))]
    edit_large(large, swaps[0][1], rng)
    for number, path in enumerate(chosen):
        version = os.path.join(other, str(number))
        if number < edits:
            with open(path, "rb") as file:
                write_version(version, edited(file.read(), rng), path)
            swaps.append((path, version))
        elif number < edits + renames:
            swaps.append((path, path + ".renamed"))
        else:
            swaps.append((path, version))  # nothing is there: it is deleted
    for number, path in enumerate(rng.sample(files, len(files) * 5 // 1000)):
        version = os.path.join(other, f"added{number}")
        with open(path, "rb") as file:
            words = file.read(64 << 10).split(b" ")
        rng.shuffle(words)
        write_version(version, b" ".join(words), path)
        swaps.append((path + ".added", version))
    with open(os.path.join(other, "swaps.json"), "w") as out:
        json.dump({"state": "plain", "swaps": swaps}, out)


def exchange(one, two):
    """Either may be missing: then the other moves there."""
    aside = two + ".aside"
    if os.path.exists(two):
        os.rename(two, aside)
    if os.path.exists(one):
        os.rename(one, two)
    if os.path.exists(aside):
        os.rename(aside, one)


def put(other, state):
    path = os.path.join(other, "swaps.json")
    with open(path) as file:
        listed = json.load(file)
    if listed["state"] == state:
        return
    if listed["state"] == "between":
        sys.exit(f"error: {other} was left in the middle of a change: remove it and its folder")
    for listed["state"] in ("between", state):
        if listed["state"] == state:
            for one, two in listed["swaps"]:
                exchange(one, two)
        with open(path, "w") as out:
            json.dump(listed, out)


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "make":
        make(*map(os.path.abspath, sys.argv[2:]))
    elif len(sys.argv) == 3 and sys.argv[1] in ("changed", "plain"):
        put(sys.argv[2], sys.argv[1])
    else:
        sys.exit(__doc__)
