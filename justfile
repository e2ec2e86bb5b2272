# `just` lists what there is; each line can also be typed by hand.

_list:
    @just --list

# build the release binary, target/release/arc
build:
    cargo build --release --locked

# run all tests
test *ARGS:
    cargo test --locked {{ARGS}}

# show it all once: push, lose two servers, pull, compare
demo *ARGS:
    cargo run --release --locked -- demo {{ARGS}}

# formatting and lints, warnings denied
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings

# the crates' documentation
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# what benches/ measures
bench *ARGS:
    cargo bench --locked -p arc-benches {{ARGS}}

# arc beside rustic, restic, borg, a zfec pipeline and cp, each where it is on PATH
bench-peers *ARGS: build
    benches/peers.sh --where /dev/shm {{ARGS}}

# push and pull against cores and servers, memory against the input; `just plots` draws it
bench-scaling SET *ARGS: build
    benches/scaling.sh --where /dev/shm --set {{SET}} {{ARGS}}

# docs/scaling-*.svg, from what bench-scaling measured
plots:
    benches/plots.py benches/measured/scaling.jsonl docs

# push, pull and verify where one server has a tenth of its speed
bench-slow SET *ARGS: build
    benches/slow.sh --where /dev/shm --set {{SET}} {{ARGS}}

# Reed-Solomon at every level of this processor beside reed-solomon-erasure (and ISAL=libisal.so.2)
bench-kernel:
    cargo bench --locked -p arc-benches --bench kernel

# what arc is built of, each part by itself (BENCH_SET=DIR of files, BENCH_WHERE=DIR to write to, --json FILE)
bench-blocks *ARGS:
    cargo bench --locked -p arc-benches --bench blocks -- {{ARGS}}

# everything that must hold before a change goes in
ci:
    .ci/run
