#!/usr/bin/env python3
"""The results file: JSON lines in, Markdown tables out (acceptance.py has the tables of peers.sh).

  results.py add FILE KEY=VALUE…   appends one line
  results.py memory FILE           the table of memory.sh; exit 1 when a bound is exceeded
"""

import json
import sys

MIB = 1 << 20
BOUNDS_MIB = {"client": 256, "server": 64, "coordinator": 128, "embedded vault": 512}


def read(path):
    with open(path) as lines:
        return [json.loads(line) for line in lines]


def add(path, pairs):
    line = dict(pair.split("=", 1) for pair in pairs)
    line = {key: int(value) if value.isdigit() else value for key, value in line.items()}
    with open(path, "a") as out:
        out.write(json.dumps(line) + "\n")


def print_table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")


# ---------------------------------------------------------------- memory


def parts(line):
    """(which process, its peak) of one measured command."""
    if line["mode"] == "embedded":
        yield "embedded vault", line["client_peak_bytes"]
        return
    yield "client", line["client_peak_bytes"]
    for number, peak_bytes in enumerate(line["server_peak_bytes"], 1):
        yield f"server {number}", peak_bytes
    yield "coordinator", line["coordinator_peak_bytes"]


def memory(path):
    lines = read(path)
    for given in (line for line in lines if line["kind"] == "input"):
        print(f"- input {given['set']}: {given['files']:,} files, {given['bytes'] / 1e6:,.1f} MB; {given['text']}")
    print()
    peaks = {}
    for line in lines:
        if line["kind"] == "op":
            for process, peak_bytes in parts(line):
                peaks.setdefault((line["set"], process), {})[line["op"]] = peak_bytes
    rows, over = [], []
    for (name, process), by_op in peaks.items():
        bound = BOUNDS_MIB[process.rstrip(" 0123456789")]
        highest = max(by_op.values()) / MIB
        if highest > bound:
            over.append(f"{process} on {name}: {highest:.1f} MiB, the bound is {bound}")
        cells = [f"{by_op[op] / MIB:.1f}" if op in by_op else "not run" for op in ("push", "pull")]
        rows.append([name, process, *cells, str(bound), "over" if highest > bound else "within"])
    print_table(["input", "process", "push, MiB", "pull, MiB", "bound, MiB", ""], rows)
    for text in over:
        print(f"error: {text}", file=sys.stderr)
    sys.exit(1 if over or not rows else 0)


if __name__ == "__main__":
    command, path = sys.argv[1:3]
    {"add": lambda: add(path, sys.argv[3:]), "memory": lambda: memory(path)}[command]()
