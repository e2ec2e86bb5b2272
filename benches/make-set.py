#!/usr/bin/env python3
"""Makes the inputs of the measurements, the same ones each time on one machine.

  packages DIR  1.5 to 2 GB of real files from Debian packages, got with apt-get download
  mixed FILE    text, binaries, random bytes, runs of zeros and repetitions; - is standard output
  small DIR     very many files of 20 to 200 bytes, or of --size, each different
  count DIR     prints files and bytes
"""

import argparse
import glob
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


# ---------------------------------------------------------------- packages

DEBS = ["linux-source-6.1", "chromium", "libllvm14", "gcc-12", "cpp-12", "g++-12", "libllvm15", "libclang-cpp14"]
UNPACKED = ["chromium", "libllvm14", "gcc-12"]
IN_TAR = ["drivers", "arch", "sound", "tools"]


def only(found, what):
    if len(found) != 1:
        sys.exit(f"error: {what}: one is wanted, these are there: {found}")
    return found[0]


def make_packages(folder):
    """src, bin, debs and rest.tar: sources, binaries, packages and one large file."""
    debs, src, work = (os.path.join(folder, name) for name in ("debs", "src", "work"))
    os.makedirs(debs)
    os.makedirs(work)
    # As whoever runs this: apt's own user may not write here.
    subprocess.run(["apt-get", "-o", "APT::Sandbox::User=", "download", *DEBS], cwd=debs, check=True)

    def unpack(name, target):
        deb = only(glob.glob(os.path.join(debs, f"{name}_*.deb")), name)
        os.makedirs(target, exist_ok=True)
        subprocess.run(["dpkg-deb", "-x", deb, target], check=True)

    for name in UNPACKED:
        unpack(name, os.path.join(folder, "bin", name))
    unpack(DEBS[0], work)
    archive = only(glob.glob(os.path.join(work, "usr/src/*.tar.xz")), "archive of the kernel")
    subprocess.run(["tar", "-C", work, "-xf", archive], check=True)
    os.rename(only(glob.glob(os.path.join(work, "linux-source-*/")), "kernel"), src)
    subprocess.run(
        ["tar", "--sort=name", "--exclude=drivers/gpu", "--exclude=drivers/staging", "-C", src]
        + ["-cf", os.path.join(folder, "rest.tar"), *IN_TAR],
        check=True,
    )
    for name in IN_TAR:
        shutil.rmtree(os.path.join(src, name))
    shutil.rmtree(work)


# ---------------------------------------------------------------- mixed


class Files:
    """The contents of many files, one after the other, and again with other values for all bytes."""

    def __init__(self, roots, wanted):
        self.roots, self.wanted, self.rest = roots, wanted, bytearray()
        self.turn = -1
        self.begin()

    def begin(self):
        self.pieces, self.turn = self.once(), self.turn + 1
        # A multiple by an odd number and a sum: no two values become one.
        self.values = bytes((2 * self.turn + 1) * byte + self.turn & 255 for byte in range(256))

    def once(self):
        for root in self.roots:
            for path in regular_files(root):
                if path.endswith(COMPRESSED):
                    continue
                with open(path, "rb") as file:
                    piece = file.read(4096)
                    while piece and (file.tell() > 4096 or self.wanted(piece)):
                        yield piece
                        piece = file.read(4 * MIB)

    def read(self, count):
        while len(self.rest) < count:
            piece = next(self.pieces, None)
            if piece is None:
                if not self.rest and not self.turn:
                    sys.exit(f"error: no such files below {', '.join(self.roots)}")
                self.begin()
                continue
            self.rest += piece.translate(self.values)
        piece = bytes(self.rest[:count])
        del self.rest[:count]
        return piece


def mixed(size, seed):
    """Pieces of 1 to 16 MiB."""
    rng = random.Random(seed)
    text_roots = ["/usr/share", "/usr/include", cargo_sources(), os.path.join(rust_sysroot(), "share")]
    text = Files(text_roots, lambda start: b"\0" not in start)
    binaries = Files(["/usr/lib", "/usr/bin"], lambda start: b"\0" in start)
    kinds = {"text": 30, "binaries": 30, "random": 20, "zeros": 10, "repeated": 10}
    written, at, last = dict.fromkeys(kinds, 0), 0, []
    while at < size:
        # The kind that is furthest behind its share, so that any size has the same mixture.
        kind = max(kinds, key=lambda kind: at * kinds[kind] - written[kind] * 100)
        count = min(size - at, rng.choice([1, 2, 4, 8, 16]) * MIB + rng.randrange(4096))
        if kind == "repeated":
            earlier = rng.choice(last)
            piece = earlier[rng.randrange(len(earlier)) :][:count]
        elif kind == "random":
            piece = rng.randbytes(count)
        elif kind == "zeros":
            piece = bytes(count)
        else:
            piece = (text if kind == "text" else binaries).read(count)
        if kind in ("text", "binaries", "random"):
            last = (last + [piece])[-3:]
        yield piece
        written[kind] += len(piece)
        at += len(piece)


def make_mixed(path, size, seed):
    digest = hashlib.sha256()
    with open(sys.stdout.fileno() if path == "-" else path + ".part", "wb", closefd=path != "-") as file:
        for piece in mixed(size, seed):
            file.write(piece)
            digest.update(piece)
    if path != "-":
        os.rename(path + ".part", path)
    print(digest.hexdigest(), file=sys.stderr)


# ---------------------------------------------------------------- small


def make_small(folder, files, per_folder, size):
    rng = random.Random(7)
    words = [rng.randbytes(rng.randint(1, 5)).hex().encode() for _ in range(5000)]
    for number in range(files):
        parent = os.path.join(folder, f"d{number // per_folder:04}")
        if number % per_folder == 0:
            os.makedirs(parent)
        # The number in front keeps any two files different.
        if size:
            content = b"%d\n" % number + b" ".join(rng.choices(words, k=size // 5))
        else:
            content = b"%d\n" % number + rng.randbytes(96).hex().encode()
        with open(os.path.join(parent, f"f{number % per_folder:04}"), "wb", buffering=0) as file:
            file.write(content[: size or rng.randint(20, 200)])


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
    args.add_argument("what", choices=["packages", "mixed", "small", "count"])
    args.add_argument("path")
    args.add_argument("--files", type=int, default=1_000_000, help="of small")
    args.add_argument("--size", type=int, help="bytes of each of them")
    args.add_argument("--per-folder", type=int, default=1000)
    args.add_argument("--bytes", type=int, default=2048 * MIB)
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    if args.what == "packages":
        make_packages(os.path.abspath(args.path))
    elif args.what == "mixed":
        make_mixed(args.path, args.bytes, args.seed)
    elif args.what == "small":
        make_small(args.path, args.files, args.per_folder, args.size)
    else:
        count(args.path)


if __name__ == "__main__":
    main()
