#!/usr/bin/env python3
"""plots.py FILE DIR: draws what scaling.sh measured, as three SVG files in DIR.

Each has a background of its own, light or dark as the reader prefers. Rates are medians of the
runs, memory is the highest of them; the line under the picture says on what machine.
"""

import math
import os
import sys
from html import escape
from statistics import median

from results import BOUNDS_MIB, MIB, read

WIDTH, HEIGHT = 640, 380
LEFT, RIGHT, TOP, BOTTOM = 70, 610, 60, 300
STYLE = """
  .paper { fill: #ffffff } .ink { fill: #24292f } .faint { fill: #57606a } .grid { stroke: #d0d7de }
  .line0 { stroke: #0969da } .dot0 { fill: #0969da } .line1 { stroke: #bc4c00 } .dot1 { fill: #bc4c00 }
  .bound { stroke: #cf222e; stroke-dasharray: 6 4 }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117 } .ink { fill: #e6edf3 } .faint { fill: #9198a1 } .grid { stroke: #30363d }
    .line0 { stroke: #58a6ff } .dot0 { fill: #58a6ff } .line1 { stroke: #f0883e } .dot1 { fill: #f0883e }
    .bound { stroke: #ff7b72 }
  }
  text { font: 13px system-ui, sans-serif } .title { font-size: 16px; font-weight: 600 } .small { font-size: 11px }
  path, line { fill: none; stroke-width: 2 } .grid { stroke-width: 1 }
"""


def text(x, y, words, kind="ink", anchor="middle"):
    return f'<text x="{x:.0f}" y="{y:.0f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def round_steps(highest):
    """About five round steps from 0 to past `highest`."""
    step = 10 ** math.floor(math.log10(highest))
    step = next(step * part for part in (0.1, 0.2, 0.5, 1, 2) if highest / (step * part) <= 6)
    return [step * number for number in range(math.floor(highest / step) + 2)]


def plot(title, unit, places, series, below, machine, bound=None):
    """`places`: (x from 0 to 1, its label); `series`: name to values, one for each place."""
    steps = round_steps(max([value for values in series.values() for value in values] + [bound or 0]))
    across = [LEFT + 30 + x * (RIGHT - LEFT - 60) for x, _ in places]

    def up(value):
        return BOTTOM - value / steps[-1] * (BOTTOM - TOP)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    out += [f"<style>{STYLE}</style>", f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="8"/>']
    out += [text(LEFT, 28, title, "ink title", "start"), text(LEFT - 10, 48, unit, "faint small", "start")]
    for step in steps:
        out.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{up(step):.1f}" y2="{up(step):.1f}"/>')
        out.append(text(LEFT - 8, up(step) + 4, f"{step:g}", "faint small", "end"))
    for x, (_, label) in zip(across, places):
        out.append(text(x, BOTTOM + 20, label))
    out.append(text((LEFT + RIGHT) / 2, BOTTOM + 40, below, "faint"))
    if bound:
        out.append(f'<line class="bound" x1="{LEFT}" x2="{RIGHT}" y1="{up(bound):.1f}" y2="{up(bound):.1f}"/>')
        out.append(text(RIGHT, up(bound) - 6, f"the bound, {bound} {unit}", "faint small", "end"))
    # The numbers of the lower line stand below it, and its name below the other's.
    lowest = [min(values) for values in zip(*series.values())]
    names_below = -math.inf
    for number, (name, values) in sorted(enumerate(series.items()), key=lambda line: -line[1][1][-1]):
        points = [(x, up(value)) for x, value in zip(across, values)]
        out.append(f'<path class="line{number}" d="M' + " L".join(f"{x:.1f},{y:.1f}" for x, y in points) + '"/>')
        for (x, y), value, low in zip(points, values, lowest):
            out.append(f'<circle class="dot{number}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
            aside = 18 if len(series) > 1 and value == low else -9
            out.append(text(x, y + aside, f"{value:.0f}", f"dot{number} small"))
        names_below = max(points[-1][1] + 4, names_below + 15)
        out.append(text(points[-1][0] + 9, names_below, name, f"dot{number}", "start"))
    out += [text(LEFT, HEIGHT - 12, machine, "faint small", "start"), "</svg>", ""]
    return "\n".join(out)


def places_of(lines, figure, key, value, of_runs):
    """Each value of the label `key`, in order of the file, with one number for each op."""
    found = {}
    for line in lines:
        if line.get("figure") == figure:
            found.setdefault(line[key], {}).setdefault(line["op"], []).append(value(line))
    return {place: {op: of_runs(values) for op, values in ops.items()} for place, ops in found.items()}


def evenly(count):
    return [number / max(count - 1, 1) for number in range(count)]


def main():
    lines, folder = read(sys.argv[1]), sys.argv[2]
    machine = next(line for line in lines if line["kind"] == "machine")
    given = next(line for line in lines if line["kind"] == "input")

    def rate(line):
        return given["bytes"] / line["wall_s"] / 1e6

    def write(figure, *args, **options):
        runs = len({line["run"] for line in lines if line.get("figure") == figure})
        words = f"{machine['cores']} cores of {machine['processor']}, {machine['where']}, {machine['date']}, runs: {runs}"
        words += f"; {machine['note']}" if machine["note"] else ""
        with open(os.path.join(folder, f"scaling-{figure}.svg"), "w") as out:
            out.write(plot(*args, words, **options))

    of = f"{given['files']:,} files, {given['bytes'] / 1e9:.2f} GB"
    for figure, key, title, below in (
        ("cores", "cores", f"Cores: {of}, 4+2 on six servers", "cores, for client and services together"),
        ("servers", "code", f"Servers: {of}", "servers (code), all on the same machine"),
    ):
        found = places_of(lines, figure, key, rate, median)
        if found:
            labels = [f"{sum(map(int, place.split('+')))} ({place})" if "+" in place else place for place in found]
            series = {op: [ops[op] for ops in found.values()] for op in ("push", "pull")}
            write(figure, title, "MB/s", list(zip(evenly(len(labels)), labels)), series, below)
    found = places_of(lines, "memory", "bytes", lambda line: line["client_peak_bytes"] / MIB, max)
    if found:
        sizes = [int(size) // MIB for size in found]
        labels = [f"{size // 1024} GiB" if size >= 1024 else f"{size} MiB" for size in sizes]
        across = [math.log2(size / sizes[0]) / max(math.log2(sizes[-1] / sizes[0]), 1) for size in sizes]
        done = [op for op in ("push", "pull") if all(op in ops for ops in found.values())]
        series = {op: [ops[op] for ops in found.values()] for op in done}
        write("memory", "Peak memory of the client, standard input to standard output", "MiB",
              list(zip(across, labels)), series, "bytes of input", bound=BOUNDS_MIB["client"])


if __name__ == "__main__":
    main()
