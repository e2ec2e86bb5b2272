#!/usr/bin/env python3
"""Makes the inputs of the measurements, the same ones each time on one machine.

  tree DIR    a source tree of real files: Rust crates, rustlib, headers, /usr/share
  mixed FILE  one file of text, binaries, random bytes, runs of zeros and repetitions
  small DIR   very many files of 20 to 200 bytes, each different
  count DIR   prints files and bytes
"""

import argparse
import hashlib
import os
import random
import shutil
import stat
import subprocess
import sys

MIB = 1 << 20
COMPRESSED = (".gz", ".xz", ".zst", ".bz2", ".png", ".jpg", ".zip", ".deb", ".woff2", ".whl")


def cargo_sources():
    home = os.environ.get("CARGO_HOME") or os.path.expanduser("~/.cargo")
    return os.path.join(home, "registry", "src")


def rust_sysroot():
    try:
        found = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True)
        return found.stdout.strip() or "/nonexistent"
    except OSError:
        return "/nonexistent"


def regular_files(folder):
    """Readable regular files below `folder`, in an order that is always the same."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            if stat.S_ISREG(os.lstat(path).st_mode) and os.access(path, os.R_OK):
                yield path


# ---------------------------------------------------------------- tree


def tree_units():
    """(place in the tree, source): whole crates and folders, taken until there are enough files."""
    roots = [
        ("registry", cargo_sources()),
        ("rustlib", os.path.join(rust_sysroot(), "lib", "rustlib")),
        ("include", "/usr/include"),
        ("src", "/usr/src"),
        ("share", "/usr/share"),
    ]
    for name, root in roots:
        depth = 2 if name == "registry" else 1
        units = [root] if os.path.isdir(root) else []
        for _ in range(depth):
            units = [os.path.join(u, e) for u in units if os.path.isdir(u) for e in sorted(os.listdir(u))]
        for unit in units:
            yield os.path.join(name, os.path.relpath(unit, root)), unit


def copy_unit(source, target):
    """Copies files and symlinks with mode and mtime; returns how many regular files."""
    if os.path.islink(source) or not os.path.isdir(source):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not os.path.islink(source) and not (os.path.isfile(source) and os.access(source, os.R_OK)):
            return 0
        shutil.copy2(source, target, follow_symlinks=False)
        return int(not os.path.islink(source))
    os.makedirs(target, exist_ok=True)
    if not os.access(source, os.R_OK | os.X_OK):
        return 0
    return sum(
        copy_unit(os.path.join(source, name), os.path.join(target, name))
        for name in sorted(os.listdir(source))
    )


def make_tree(folder, files_min):
    files = 0
    for place, source in tree_units():
        files += copy_unit(source, os.path.join(folder, place))
        if files >= files_min:
            return
    sys.exit(f"error: this machine has {files} files for the source tree, {files_min} are wanted: give a tree of your own")


# ---------------------------------------------------------------- mixed


class Files:
    """The contents of many files, one after the other; made-up words when they are used up."""

    def __init__(self, roots, wanted, seed):
        self.paths = (path for root in roots for path in regular_files(root))
        self.wanted, self.rest, self.made_up_bytes = wanted, bytearray(), 0
        self.rng = random.Random(seed)
        self.words = [self.rng.randbytes(self.rng.randint(1, 5)).hex().encode() for _ in range(5000)]

    def read(self, count):
        while len(self.rest) < count:
            path = next(self.paths, None)
            if path is None:
                made_up = b" ".join(self.rng.choices(self.words, k=count // 6 + 1))
                self.made_up_bytes += len(made_up)
                self.rest += made_up
            elif not path.endswith(COMPRESSED):
                with open(path, "rb") as file:
                    start = file.read(4096)
                    if self.wanted(start):
                        self.rest += start + file.read(64 * MIB)
        piece = bytes(self.rest[:count])
        del self.rest[:count]
        return piece


def make_mixed(path, size, seed):
    rng = random.Random(seed)
    text_roots = ["/usr/share", "/usr/include", cargo_sources(), os.path.join(rust_sysroot(), "share")]
    text = Files(text_roots, lambda start: start and b"\0" not in start, seed + 1)
    binaries = Files(["/usr/lib", "/usr/bin"], lambda start: b"\0" in start, seed + 2)
    kinds = {"text": 30, "binaries": 30, "random": 20, "zeros": 10, "repeated": 10}
    written, digest = dict.fromkeys(kinds, 0), hashlib.sha256()
    with open(path + ".part", "w+b") as file:
        at = 0
        while at < size:
            # The kind that is furthest behind its share, so that any size has the same mixture.
            kind = max(kinds, key=lambda kind: at * kinds[kind] - written[kind] * 100)
            count = min(size - at, rng.choice([1, 2, 4, 8, 16]) * MIB + rng.randrange(4096))
            if kind == "repeated":
                file.seek(rng.randrange(at) if at else 0)
                piece = file.read(count) or bytes(count)
                file.seek(at)
            elif kind == "random":
                piece = rng.randbytes(count)
            elif kind == "zeros":
                piece = bytes(count)
            else:
                piece = (text if kind == "text" else binaries).read(count)
            file.write(piece)
            digest.update(piece)
            written[kind] += len(piece)
            at += len(piece)
    os.rename(path + ".part", path)
    shares = ", ".join(f"{kind} {100 * count / size:.0f} %" for kind, count in written.items())
    made_up = (text.made_up_bytes + binaries.made_up_bytes) // MIB
    print(f"{shares}; {made_up} MiB of made-up words; sha256 {digest.hexdigest()[:16]}")


# ---------------------------------------------------------------- small


def make_small(folder, files, per_folder):
    rng = random.Random(7)
    for number in range(files):
        parent = os.path.join(folder, f"d{number // per_folder:04}")
        if number % per_folder == 0:
            os.makedirs(parent)
        # The number in front keeps any two files different.
        content = b"%d\n" % number + rng.randbytes(96).hex().encode()
        with open(os.path.join(parent, f"f{number % per_folder:04}"), "wb", buffering=0) as file:
            file.write(content[: rng.randint(20, 200)])


def count(folder):
    files = sizes = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            info = os.lstat(os.path.join(parent, name))
            if stat.S_ISREG(info.st_mode):
                files, sizes = files + 1, sizes + info.st_size
    print(files, sizes)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("what", choices=["tree", "mixed", "small", "count"])
    args.add_argument("path")
    args.add_argument("--files", type=int, help="files at least (tree, 20000), files (small, 1000000)")
    args.add_argument("--per-folder", type=int, default=1000)
    args.add_argument("--bytes", type=int, default=2048 * MIB)
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    if args.what == "tree":
        make_tree(args.path, args.files or 20_000)
    elif args.what == "mixed":
        make_mixed(args.path, args.bytes, args.seed)
    elif args.what == "small":
        make_small(args.path, args.files or 1_000_000, args.per_folder)
    else:
        count(args.path)


if __name__ == "__main__":
    main()
