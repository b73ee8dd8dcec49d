#!/usr/bin/env bash
# Everything that must be green before a change is taken, from a clean clone and without anything installed by hand:
# format, lints, dependencies, and all tests against real servers. CI runs this and nothing else.
#
#   tests/run.sh                all of it
#   tests/run.sh ARGUMENTS…     the arguments go to `cargo test`, for example: tests/run.sh --test recording fold::
#   tests/run.sh --chaos SECONDS [ARGUMENTS…]    chaos (tests/chaos.rs) takes so long instead of 60 s, for example:
#                               tests/run.sh --chaos 1800 --test faults chaos:: -- --nocapture
#
# Without arguments also the short benchmark (cargo bench --bench pipeline -- --quick), which fails only when a ratio has collapsed.
#
# The tests that need no server run in seconds by themselves: cargo test --lib
#
# cargo test comes last, so that its summary is the last thing printed.

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*" >&2; }
die() { printf 'run: error: %s\n' "$*" >&2; exit 1; }

main() {
    if [[ ${1-} == --chaos ]]; then
        [[ ${2-} =~ ^[0-9]+$ ]] || die "--chaos takes a number of seconds"
        export SDL_CHAOS_SECONDS=$2
        shift 2
    fi
    require_rust

    say "build tools, and servers while it compiles"
    tests/servers.sh --tools
    servers=$(mktemp)
    { tests/servers.sh --test --mongosh && deploy/package/build.sh --tools; } >"$servers" &
    fetching=$!
    trap end_fetching EXIT

    say "cargo fmt --check"
    cargo fmt --check

    say "cargo clippy"
    cargo clippy --locked --all-targets --all-features -- -D warnings

    check_dependencies

    say "cargo test: compiling"
    cargo test --locked --no-run --features failpoints "$@"

    if [[ $# == 0 ]]; then
        say "cargo bench: compiling"
        cargo bench --locked "${BENCHMARK[@]}" --no-run
    fi

    wait "$fetching" || die "the servers, or cargo-deb, could not be had"
    set -a # what follows is for the test processes
    # shellcheck source=/dev/null
    . "$servers"
    set +a
    end_fetching

    if [[ $# == 0 ]]; then
        say "cargo bench, the short one"
        cargo bench --locked "${BENCHMARK[@]}" -- --quick
    fi

    say "cargo test"
    # Each test has servers of its own, and waits for them most of the time: three at once for each core, and no more than 6, or
    # they starve each other.
    export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(at_most 6 $((3 * $(nproc))))}
    # All of it, even when something fails early: one run tells everything.
    exec cargo test --locked --no-fail-fast --features failpoints "$@"
}

require_rust() {
    # rustup writes its PATH into a login shell's profile; CI has no login shell.
    type -P cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    type -P cargo >/dev/null || die "cargo is not on PATH; Rust comes from https://rustup.rs"
    local component
    for component in fmt clippy; do
        cargo "$component" --version >/dev/null 2>&1 && continue
        say "installing cargo $component"
        rustup component add "${component/#fmt/rustfmt}" || die "cargo $component is missing"
    done
}

# Licenses, banned crates and sources need nothing but cargo-deny; advisories also their database, which is on GitHub.
check_dependencies() {
    if ! cargo deny --version >/dev/null 2>&1; then
        say "cargo deny: skipped, cargo-deny is not installed (cargo install --locked cargo-deny)"
        return
    fi
    say "cargo deny check bans licenses sources"
    cargo deny --all-features --config deploy/deny.toml check bans licenses sources

    if timeout 120 cargo deny --all-features --config deploy/deny.toml fetch db >/dev/null 2>&1; then
        say "cargo deny check advisories"
        cargo deny --all-features --offline --config deploy/deny.toml check advisories
    else
        say "cargo deny check advisories: skipped, their database cannot be reached"
    fi
}

end_fetching() {
    kill "$fetching" 2>/dev/null || true
    rm -f "$servers"
}

at_most() { echo $(($1 < $2 ? $1 : $2)); }

# With the dependencies of the tests, which are optimized, so that nothing but sdl is compiled for it; its ratios come out the same, and
# no failpoints are in it.
BENCHMARK=(--bench pipeline --profile dev --config profile.dev.opt-level=3)

servers= fetching= # where it is printed what was fetched, and by which process
main "$@" </dev/null
