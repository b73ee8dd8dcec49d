#!/usr/bin/env bash
# Builds the Debian package and prints its path.
#
#   deploy/package/build.sh [ARGUMENTS…]          a release build; the arguments go to `cargo deb`, for example --deb-revision 2
#   deploy/package/build.sh --built [ARGUMENTS…]  of what is built already, with the pages beside it (tests/operating/package.rs)
#   deploy/package/build.sh --tools               fetches what it needs and ends
#
# It needs what `cargo test` needs of the system (tests/servers.sh --tools), since the pages are made by an example.
#
# cargo-deb is fetched by cargo when it is missing (35 s of processor time, without optimizations and without liblzma: xz and gzip do the
# compressing), into a directory outside the work tree that no other program sees:
#
#   SDL_TOOLS_DIR    default: ${XDG_CACHE_HOME:-~/.cache}/sdl-tools

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly cargo_deb_version=3.8.0

say() { printf 'package: %s\n' "$*" >&2; }

main() {
    type -P cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    local is_built=false
    fetch_cargo_deb
    case ${1-} in
        --tools) return ;;
        --built) is_built=true && shift ;;
    esac

    if ! $is_built; then
        local target
        target=$(cargo metadata --locked --no-deps --format-version 1 | sed -E 's/.*"target_directory":"([^"]+)".*/\1/')
        say "building sdl, its manual pages and completions"
        cargo build --locked --release --bin sdl --example pages
        "$target/release/examples/pages" "$target/release/package"
    fi
    # Files and directories of the package are as new as the last commit: the same source gives the same package.
    export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
    cargo deb --no-build --locked --quiet --compress-system "$@"
}

fetch_cargo_deb() {
    local tools=${SDL_TOOLS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/sdl-tools}
    PATH=$tools/bin:$PATH
    [[ $(cargo deb --version 2>/dev/null) == *" $cargo_deb_version" ]] && return
    say "fetching cargo-deb $cargo_deb_version"
    # cargo itself takes a lock there, so two at a time do not disturb one another.
    CARGO_PROFILE_DEV_DEBUG=0 cargo install --locked --debug --quiet --no-default-features --root "$tools" "cargo-deb@$cargo_deb_version" >&2
}

main "$@" </dev/null
