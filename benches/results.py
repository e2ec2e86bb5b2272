#!/usr/bin/env python3
"""The results file: JSON lines in, Markdown tables out.

  results.py add FILE KEY=VALUE…   appends one line
  results.py peers FILE            the table of peers.sh (medians of the runs)
  results.py memory FILE           the table of memory.sh; exit 1 when a bound is exceeded
"""

import json
import sys
from statistics import median

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


def middle(lines, value):
    return median(value(line) for line in lines) if lines else None


def show(number, form="{:.1f}"):
    return "failed" if number is None else form.format(number)


# ---------------------------------------------------------------- peers


def cpu(lines):
    """Client alone, or client + services."""
    client = show(middle(lines, lambda line: line["client_cpu_s"]))
    if lines and "services_cpu_s" in lines[0]:
        client += " + " + show(middle(lines, lambda line: line["services_cpu_s"]))
    return client


def peak(lines):
    """MiB of the client; of the largest server and the coordinator behind it."""
    text = show(middle(lines, lambda line: line["client_peak_bytes"] / MIB), "{:.0f}")
    if lines and "server_peak_bytes" in lines[0]:
        server = middle(lines, lambda line: max(line["server_peak_bytes"]) / MIB)
        coordinator = middle(lines, lambda line: line["coordinator_peak_bytes"] / MIB)
        text += f", {server:.0f}, {coordinator:.0f}"
    return text


def stored(sizes, key, input_bytes):
    if not sizes:
        return "failed"
    if not sizes[0].get(key):
        return "none"
    ratio = middle(sizes, lambda line: line[key]) / input_bytes
    return f"{ratio:.3f}" + (" (k/n of it all)" if key == "before_parity_bytes" and sizes[0].get("estimated") else "")


def peers(path):
    lines = read(path)
    for line in lines:
        if line["kind"] == "note":
            print(f"- {line['text']}")
    for given in (line for line in lines if line["kind"] == "input"):
        print(f"- input {given['set']}: {given['files']:,} files, {given['bytes'] / 1e6:,.1f} MB; {given['text']}")
    print()
    rows = []
    for given in (line for line in lines if line["kind"] == "input"):
        mb = given["bytes"] / 1e6
        mine = [line for line in lines if line.get("set") == given["set"]]
        for tool in dict.fromkeys(line["tool"] for line in mine if line["kind"] == "start"):
            ops = {
                op: [line for line in mine if line["kind"] == "op" and line["tool"] == tool and line["op"] == op]
                for op in ("first", "unchanged", "pull")
            }
            wall = {op: middle(found, lambda line: line["wall_s"]) for op, found in ops.items()}
            rate = {op: s and mb / max(s, 0.001) for op, s in wall.items()}
            sizes = [line for line in mine if line["kind"] == "size" and line["tool"] == tool]
            rows.append([
                given["set"], tool,
                f"{show(wall['first'])} ({show(rate['first'], '{:.0f}')})",
                show(wall["unchanged"], "{:.2f}"),
                f"{show(wall['pull'])} ({show(rate['pull'], '{:.0f}')})",
                *(cpu(ops[op]) for op in ("first", "unchanged", "pull")),
                f"{peak(ops['first'])} / {peak(ops['pull'])}",
                stored(sizes, "before_parity_bytes", given["bytes"]),
                stored(sizes, "with_parity_bytes", given["bytes"]),
                stored(sizes, "catalog_bytes", given["bytes"]),
            ])
    head = ["input", "tool", "first push, s (MB/s)", "unchanged, s", "pull, s (MB/s)",
            "CPU s, first", "CPU s, unchanged", "CPU s, pull", "peak MiB, push / pull",
            "stored / input", "with parity", "catalog"]
    print_table(head, rows)
    print("\nMB/s are of input, 10^6 bytes. CPU: user + system of the client + of all services."
          " Peak: client, largest server, coordinator.")


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
    {"add": lambda: add(path, sys.argv[3:]), "peers": lambda: peers(path), "memory": lambda: memory(path)}[command]()
