"""What a first push could reach at most: all cores busy with nothing but its stages.

A stage's rate is that of one core in the same run. The bytes that go through it are what arc
reported of that push. The ceiling is cores / sum(bytes / rate), for all the bytes of input.
"""

# Stage, which is also its name in `cargo bench --bench blocks`; which bytes go through it and how
# often; its rate in GB/s as first measured on two cores of an AMD EPYC (Zen 4). arc compresses at
# level 3: 0.33 for text and 0.25 for binaries, 5 for what is compressed, by their parts of the set.
STAGES = [
    ("read", "bytes", 1, 10.5),
    ("cut", "bytes", 1, 2.5),
    ("id", "bytes", 1, 1.78),
    ("zstd", "bytes_new", 1, 0.36),
    ("seal", "bytes_stored", 1, 9.7),
    ("encode", "bytes_stored", 1, 15.0),
    ("hash", "bytes_on_servers", 2, 6.5),
    ("loopback", "bytes_on_servers", 1, 2.3),
    ("write", "bytes_on_servers", 1, 0.24),
]
SLOWER = 0.8


def terms(push, rates):
    """(stage, bytes, rate, core-seconds, rate as first measured) for each stage; None where no
    rate was measured."""
    for stage, key, times, known in STAGES:
        through = push[key] * times
        rate = rates.get(stage)
        yield stage, through, rate, rate and through / rate, known * 1e9


def ceiling(push, rates, cores):
    """Bytes of input per second; None when a rate is missing."""
    spent = [seconds for _, _, _, seconds, _ in terms(push, rates)]
    return None if None in spent else push["bytes"] * cores / sum(spent)


def rows(push, rates):
    """Table rows; a stage that is slower by more than 20 % than first measured is marked."""
    for stage, through, rate, seconds, known in terms(push, rates):
        if rate is None:
            yield [stage, f"{through / 1e6:,.0f}", "not measured", "", f"{known / 1e9:.2f}", ""]
        else:
            mark = "slower" if rate < SLOWER * known else ""
            yield [stage, f"{through / 1e6:,.0f}", f"{rate / 1e9:.2f}", f"{seconds:.2f}", f"{known / 1e9:.2f}", mark]
