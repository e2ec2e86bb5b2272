#!/usr/bin/env python3
"""wait-rebuild.py ARC FOLDER…: lets repair begin, stays until the servers in these folders have all
the shards that wait to be made again, and prints how long that took, how many bytes of shards were
made, and how many went over the network for them. It looks at the folders: asking arc would be work
beside it."""

import json
import os
import subprocess
import sys
import time


LONGEST_SLEEP = 0.25
"""The first shards do not foretell when the last comes: they take longer than those after them."""


def repair(*command):
    run = subprocess.run([sys.argv[1], "repair", *command, "--json"], stdout=subprocess.PIPE, text=True, check=True)
    return next(line for line in map(json.loads, run.stdout.splitlines()) if line["type"] == "summary")


def shards():
    """Shard files that are whole: the others have other names."""
    count = 0
    for server in sys.argv[2:]:
        with os.scandir(os.path.join(server, "shards")) as folders:
            count += sum(name.count(".") == 1 for folder in folders if folder.is_dir() for name in os.listdir(folder))
    return count


before = repair()
if not before["counts"]["waiting"]:
    sys.exit("error: nothing waits to be made again")
wanted = shards() + before["counts"]["waiting"]
began = time.monotonic()
repair("resume")
missing = all_missing = wanted - shards()
while missing > 0:
    # Looking costs time of a processor: seldom, until it is nearly done.
    done, passed = all_missing - missing, time.monotonic() - began
    time.sleep(min(max(passed * missing / done / 2, 0.01), LONGEST_SLEEP) if done else 0.05)
    missing = wanted - shards()
took = time.monotonic() - began
while True:
    now = repair()
    if not now["running"] and not any(now["counts"][state] for state in ("waiting", "failed", "unknown")):
        break
    time.sleep(0.1)
print(json.dumps({
    "rebuilt": now["made_bytes"] - before["made_bytes"],
    "over_network": now["read_bytes"] - before["read_bytes"],
    "rebuild_ms": round(took * 1000),
}))
