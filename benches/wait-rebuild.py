#!/usr/bin/env python3
"""wait-rebuild.py ARC: lets repair begin, stays until nothing waits for it, and prints how many
bytes of shards it made, and how many went over the network for them."""

import json
import subprocess
import sys
import time


def repair(*command):
    run = subprocess.run([sys.argv[1], "repair", *command, "--json"], stdout=subprocess.PIPE, text=True, check=True)
    return next(line for line in map(json.loads, run.stdout.splitlines()) if line["type"] == "summary")


before = repair()
if not before["counts"]["waiting"]:
    sys.exit("error: nothing waits to be made again")
repair("resume")
while True:
    now = repair()
    if not now["running"] and not any(now["counts"][state] for state in ("waiting", "failed", "unknown")):
        break
    time.sleep(0.05)
print(json.dumps({"rebuilt": now["made_bytes"] - before["made_bytes"], "over_network": now["read_bytes"] - before["read_bytes"]}))
