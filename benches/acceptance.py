#!/usr/bin/env python3
"""acceptance.py FILE: the tables of peers.sh, from what it measured. Medians of the runs."""

import sys
from statistics import median

import ceiling
from results import BOUNDS_MIB, MIB, print_table, read

MARK = {True: "met", False: "NOT MET", None: "not measured"}
STEPS = ["first", "unchanged", "unchanged-key", "changed", "pull", "pull-two-dead", "verify", "verify-data"]
FOLDERS = ["rustic", "restic", "borg"]


class Measured:
    """The lines of one run of peers.sh."""

    def __init__(self, path):
        self.lines = read(path)
        self.machine = self.all("machine")[0]
        self.inputs = {line["set"]: line for line in self.all("input")}
        self.tools = {line["tool"]: line["text"] for line in self.all("tool")}
        self.rates = {line["block"]: line["gb_per_s"] * 1e9 for line in self.lines if "block" in line}

    def all(self, kind, **labels):
        """Lines of this kind with these labels."""
        wanted = {"kind": kind, **labels}
        return [line for line in self.lines if all(line.get(key) == value for key, value in wanted.items())]

    def middle(self, key, kind, **labels):
        """Median of what these lines have under `key`; None when there are none."""
        found = [line[key] for line in self.all(kind, **labels)]
        return median(found) if found else None

    def wall(self, op, *tools, of="packages"):
        """Seconds of the fastest of these tools; None when none did it."""
        found = [self.middle("wall_s", "op", op=op, tool=tool, set=of) for tool in tools]
        return min((s for s in found if s is not None), default=None)

    def stored(self, tool, of="packages"):
        return self.middle("bytes", "stored", tool=tool, set=of)

    def push(self):
        """What arc reported of its first push of the packages."""
        found = self.all("push", set="packages")
        return found[0] if found else None


# ---------------------------------------------------------------- the rows


class Rows:
    """Rows of the table: what is compared, arc, the other, the ratio, and whether it is enough."""

    def __init__(self):
        self.rows = []

    def ratio(self, work, mine, against, theirs, least, form="{:.2f} s"):
        """Of two times: theirs / mine."""
        ratio = theirs / mine if mine and theirs else None
        self.add(work, mine, against, theirs, ratio, f"{least} times", ratio and ratio >= least, form, form)

    def given(self, work, mine):
        """Nothing is wanted of it."""
        self.add(work, mine, "", None, None, "", True, "{:.2f} s", "")
        self.rows[-1][-1] = ""

    def least(self, work, mine, least, form):
        self.add(work, mine, "", None, None, form.format(least), mine and mine >= least, form, form)

    def most(self, work, mine, most, form):
        self.add(work, mine, "", None, None, "at most " + form.format(most), mine and mine <= most, form, form)

    def add(self, work, mine, against, theirs, ratio, least, met, form, their_form):
        def show(value, how):
            return "" if value is None else how.format(value)

        mark = MARK[None if met is None else bool(met)]
        self.rows.append([work, show(mine, form), against, show(theirs, their_form), show(ratio, "{:.2f}"), least, mark])


def packages(m, out):
    rustic = ["rustic", "rustic_http"]
    first = m.wall("first", "arc")
    out.ratio("first push", first, "rustic, folder", m.wall("first", "rustic"), 1.5)
    out.ratio("first push", first, "restic, HTTP", m.wall("first", "restic_http"), 2)
    out.ratio("first push", first, "tar, zstd, zfec", m.wall("first", "zfec"), 1.4)
    out.ratio("first push", first, "tar, zstd, zfec in pieces", m.wall("first", "zfec_pieces"), 1.4)
    push = m.push()
    at_most = push and ceiling.ceiling(push, m.rates, m.machine["cores"])
    rate = push and first and push["bytes"] / first / 1e6
    share = rate and at_most and rate * 1e6 / at_most
    out.add("first push", rate, "ceiling", at_most and at_most / 1e6, share, "0.70 times", share and share >= 0.7, *["{:.0f} MB/s"] * 2)
    out.ratio("unchanged push, key from a file", m.wall("unchanged-key", "arc"), "rustic", m.wall("unchanged", *rustic), 4)
    out.ratio("unchanged push, passphrase", m.wall("unchanged", "arc"), "rustic", m.wall("unchanged", *rustic), 2)
    out.given("a walk that looks at every inode, by find", m.wall("unchanged", "walk"))
    out.ratio("push of what changed", m.wall("changed", "arc"), "rustic", m.wall("changed", *rustic), 2)
    out.ratio("pull", m.wall("pull", "arc"), "rustic, HTTP", m.wall("pull", "rustic_http"), 1.3)
    out.ratio("pull, two of six servers dead", m.wall("pull-two-dead", "arc"), "pull, all there", m.wall("pull", "arc"), 0.8)
    out.ratio("verify --level data", m.wall("verify-data", "arc"), "rustic check --read-data, HTTP", m.wall("verify-data", "rustic_http"), 1.5)
    out.given("verify (shards, on the servers)", m.wall("verify", "arc"))
    verify(m, push, out)
    rebuild(m, out)
    for tool in ("restic", "borg"):
        mine, theirs = m.stored("arc"), m.stored(tool)
        ratio = theirs / mine if mine and theirs else None
        out.add("bytes stored, before parity", mine and mine / 1e6, tool, theirs and theirs / 1e6, ratio, "fewer", ratio and ratio > 1, *["{:.1f} MB"] * 2)


def verify(m, push, out):
    """The servers read and hash: what they do in a second of one core, beside the hash alone."""
    spent, hashed = m.middle("services_cpu_s", "op", op="verify", tool="arc"), m.rates.get("hash")
    rate = push and spent and push["bytes_on_servers"] / spent
    ratio = rate / hashed if rate and hashed else None
    out.add("verify (shards), in one core-second of servers", rate and rate / 1e9, "hash alone", hashed and hashed / 1e9,
            ratio, "", True, *["{:.1f} GB"] * 2)
    out.rows[-1][-1] = ""


def rebuild(m, out):
    took_ms, made = m.middle("took_ms", "rebuild"), m.middle("rebuilt", "rebuild")
    moved = m.middle("over_network", "rebuild")
    rate = made / took_ms / 1e3 if took_ms and made else None
    out.least("rebuild of a lost server, per second", rate, 300, "{:.0f} MB")
    out.most("rebuild, bytes over the network per lost byte", moved / made if made else None, 4.1, "{:.2f}")


def small(m, out):
    files = m.inputs["small"]["files"]
    for work, op, tools, least in (
        ("small files, push", "first", FOLDERS + ["rustic_http", "restic_http"], 2),
        ("small files, pull", "pull", FOLDERS + ["rustic_http", "restic_http"], 1),
        ("small files, pull", "pull", ["cp"], 1),
    ):
        mine = m.wall(op, "arc", of="small")
        theirs = m.wall(op, *tools, of="small")
        best = next((tool for tool in tools if theirs and m.wall(op, tool, of="small") == theirs), "best peer")
        ratio = theirs / mine if mine and theirs else None
        out.add(work, mine and files / mine, best, theirs and files / theirs, ratio, f"{least} times", ratio and ratio >= least, *["{:,.0f} files/s"] * 2)


def memory(m, out):
    ops = [line for line in m.all("op", tool="arc")]
    # The rebuild's client is no part of arc.
    client = max((line["client_peak_bytes"] for line in ops if line["op"] != "rebuild"), default=None)
    server = max((max(line["server_peak_bytes"]) for line in ops), default=None)
    coordinator = max((line["coordinator_peak_bytes"] for line in ops), default=None)
    for process, peak in (("client", client), ("server", server), ("coordinator", coordinator)):
        out.most(f"memory of the {process}", peak and peak / MIB, BOUNDS_MIB[process], "{:.0f} MiB")


# ---------------------------------------------------------------- side by side


def side_by_side(m, of):
    given = m.inputs[of]
    what, amount, unit = ("files", given["files"], "files/s") if of == "small" else ("MB", given["bytes"] / 1e6, "MB/s")
    print(f"\nThe set {of}: {given['files']:,} files, {given['bytes'] / 1e6:,.1f} MB. Seconds, ({unit}), peak MiB of the client + of services.\n")
    done = {line["op"] for line in m.all("op", set=of)}
    ops = [op for op in STEPS if op in done]
    rows = []
    for tool in m.tools:
        cells = [cell(m, of, tool, op, amount) for op in ops]
        if any(cells):
            stored = m.stored(tool, of)
            rows.append([tool, *cells, f"{stored / given['bytes']:.3f}" if stored else ""])
    print_table(["tool", *ops, "stored / input"], rows)


def cell(m, of, tool, op, amount):
    lines = m.all("op", set=of, tool=tool, op=op)
    if not lines:
        return ""
    seconds = m.wall(op, tool, of=of)
    peak = f"{max(line['client_peak_bytes'] for line in lines) / MIB:.0f}"
    if "server_peak_bytes" in lines[0]:
        services = [sum(line["server_peak_bytes"]) + line.get("coordinator_peak_bytes", 0) for line in lines]
        peak += f" + {max(services) / MIB:.0f}"
    return f"{seconds:.2f} ({amount / seconds:,.0f}) {peak}"


def main():
    m = Measured(sys.argv[1])
    machine = m.machine
    print(f"- {machine['cores']} cores of {machine['processor']}, {machine['memory_mib']} MiB, {machine['date']};"
          f" repositories and restores on {machine['where']}{', synced inside the timing' if machine['synced'] == 'yes' else ''};"
          f" medians of {machine['runs']} runs in turns")
    if machine["note"]:
        print(f"- {machine['note']}")
    for tool, text in m.tools.items():
        print(f"- {tool}: {text}")
    for line in m.all("failed"):
        print(f"- FAILED: {line['tool']} on the set {line['set']}, run {line['run']}")
    for of in m.inputs:
        side_by_side(m, of)
    if m.push():
        print("\nWhat a first push costs one core, stage by stage:\n")
        print_table(["stage", "MB through it", "GB/s", "core-seconds", "GB/s before", ""], list(ceiling.rows(m.push(), m.rates)))
    out = Rows()
    if "packages" in m.inputs:
        packages(m, out)
    if "small" in m.inputs:
        small(m, out)
    memory(m, out)
    print()
    print_table(["work", "arc", "beside", "", "ratio", "at least", ""], out.rows)


if __name__ == "__main__":
    main()
