#!/usr/bin/env python3
"""Runs one command and appends what it took to a file, as a JSON line.

The command's own processor time and peak memory come from wait4; those of
services that work for it from /proc, as differences and, where the kernel
allows it, with their peak reset first. The smallest peak that can be told is
that of this interpreter (about 10 MB), since exec inherits it.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def peak_bytes(pid):
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    raise SystemExit(f"error: process {pid} has no VmHWM: it ended")


def reset_peak(pid):
    try:
        with open(f"/proc/{pid}/clear_refs", "w") as refs:
            refs.write("5")
    except OSError:
        pass  # the peak is then that of its whole life, which is only stricter


def run(command, cwd, log, limit_s):
    """Exit code, usage; a command over its limit is killed and has code 124."""
    with open(log, "ab") as out:
        child = subprocess.Popen(command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    late = []

    def stop(signum, _frame):
        late.append(signum)
        child.send_signal(signal.SIGKILL if signum == signal.SIGALRM else signum)

    for signum in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    signal.alarm(limit_s)
    _, status, usage = os.wait4(child.pid, 0)
    signal.alarm(0)
    code = os.waitstatus_to_exitcode(status)
    if late:
        code = 124 if signal.SIGALRM in late else 128 + late[0]
    elif code < 0:
        code = 128 - code
    child.returncode = code
    return code, usage


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("--to", required=True, help="file that gets the JSON line")
    args.add_argument("--log", required=True, help="file that gets the command's output")
    args.add_argument("--label", action="append", default=[], metavar="KEY=VALUE")
    args.add_argument("--sync", metavar="DIR", help="sync DIR's file system inside the timing")
    args.add_argument("--cwd")
    args.add_argument("--servers", default="", metavar="PID,…")
    args.add_argument("--coordinator", type=int, metavar="PID")
    args.add_argument("--allow", default="0", metavar="CODE,…", help="exit codes that are success")
    args.add_argument("--limit", type=int, default=3600, metavar="SECONDS")
    args.add_argument("command", nargs="+")
    args = args.parse_args()

    servers = [int(pid) for pid in args.servers.split(",") if pid]
    services = servers + ([args.coordinator] if args.coordinator else [])
    for pid in services:
        reset_peak(pid)
    cpu_before = {pid: cpu_seconds(pid) for pid in services}

    start = time.monotonic()
    code, usage = run(args.command, args.cwd, args.log, args.limit)
    if args.sync:
        subprocess.run(["sync", "-f", args.sync], check=True)
    wall_s = time.monotonic() - start

    if str(code) not in args.allow.split(","):
        sys.exit(f"error: exit {code} of: {' '.join(args.command)[:200]}")
    line = {"kind": "op", **dict(label.split("=", 1) for label in args.label)}
    line |= {
        "wall_s": round(wall_s, 3),
        "client_cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
        "client_peak_bytes": usage.ru_maxrss * 1024,
    }
    if services:
        line["services_cpu_s"] = round(sum(cpu_seconds(p) - cpu_before[p] for p in services), 3)
    if servers:
        line["server_peak_bytes"] = [peak_bytes(pid) for pid in servers]
    if args.coordinator:
        line["coordinator_peak_bytes"] = peak_bytes(args.coordinator)
    with open(args.to, "a") as results:
        results.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
