#!/usr/bin/env bash
# See sdl at work: a MySQL server, a MongoDB replica set, sdl between them, and a small shop that changes.
#
#   deploy/demo.sh           shows every change as its audit document, then follows what you change yourself; Ctrl-C ends it
#   deploy/demo.sh --once    ends by itself; exit 0 only if exactly the expected documents are there
#
# Needs Rust. Everything else is fetched (about 100 MB, once) or, for root, installed by apt-get; servers that are on PATH
# or named by SDL_MYSQLD, SDL_MYSQL and SDL_MONGOD are used instead. The servers are throwaway processes on free loopback
# ports; all they write is in target/demo, and none of them outlives this script.

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly demo=$PWD/target/demo
readonly database=audit
# The most that any one wait may take, in seconds; all of them take a few.
readonly patience=90

once=false
declare -A running=() # name → process id of what this script has started
declare -rA logs=([mysqld]=$demo/mysqld.log [mongod]=$demo/mongod.log [sdl]=$demo/sdl.log)

main() {
    case ${1:-} in
        '') ;;
        --once) once=true ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; die "unknown argument: $1" ;;
    esac
    mkdir -p "$demo"
    exec 9>"$demo/.lock"
    flock --nonblock 9 || die "another demo runs in $demo"
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP

    prepare
    start_mysql
    start_mongodb
    start_sdl
    play
    wait_for_sdl
    show
    if $once; then
        check
    else
        how_to_go_on
        follow
    fi
}

usage() { sed -n '2,/^$/{s/^# \{0,1\}//;p}' "$0"; }

# --- saying -----------------------------------------------------------------------------------------------------------

if [[ -t 1 ]]; then bold=$'\e[1m' faint=$'\e[2m' plain=$'\e[0m'; else bold='' faint='' plain=''; fi

title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
say() { printf '%s\n' "$*"; }
quoted() { sed "s/^/    $faint/; s/\$/$plain/"; }
die() { printf 'demo: error: %s\n' "$*" >&2; exit 1; }

# die_of NAME MESSAGE: with the end of that process's log.
die_of() {
    printf '\nthe end of %s:\n' "${logs[$1]}" >&2
    tail -n 30 "${logs[$1]}" >&2 || true
    die "$2"
}

# --- the parts --------------------------------------------------------------------------------------------------------

prepare() {
    title "Getting ready"
    type -P cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    type -P cargo >/dev/null || die "cargo is not on PATH; Rust comes from https://rustup.rs"
    local servers
    servers=$(tests/servers.sh --build --pymongo 9>&-)
    eval "$servers"
    : "${SDL_MYSQLD:?}" "${SDL_MYSQL:?}" "${SDL_MONGOD:?}" "${SDL_PYTHON:?}"
    say "MySQL    $SDL_MYSQLD"
    say "MongoDB  $SDL_MONGOD"
    say "sdl      building the release binary; the first time takes some minutes"
    cargo build --release --locked 9>&-
    rm -rf "$demo"/{mysql,mongodb,.env,*.sql,*.log,*.py}
    write_reader
}

start_mysql() {
    title "Starting MySQL"
    local user=()
    ((EUID != 0)) || user=(--user=root) # without being told so, mysqld refuses to run as root
    # The accounts are made with the data directory, before the server counts transactions: the audit begins with the shop.
    cat >"$demo/accounts.sql" <<'SQL'
CREATE USER 'root'@'127.0.0.1' IDENTIFIED BY '';
GRANT ALL ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;
CREATE USER 'sdl'@'%' IDENTIFIED BY 'sdl-secret';
GRANT REPLICATION SLAVE, REPLICATION CLIENT, SELECT ON *.* TO 'sdl'@'%';
SQL
    "$SDL_MYSQLD" --no-defaults "${user[@]}" --initialize-insecure --datadir="$demo/mysql" --init-file="$demo/accounts.sql" \
        >"${logs[mysqld]}" 2>&1 9>&- || die_of mysqld "mysqld --initialize-insecure failed"

    mysql_port=$(free_port)
    # First what sdl needs of a server (with MySQL's defaults: binlog_format=ROW, binlog_row_image=FULL), then what makes
    # a small server on loopback. The socket's path is relative to the data directory: an absolute one may be too long.
    launch mysqld "$demo" "$SDL_MYSQLD" --no-defaults "${user[@]}" --server-id=1 --gtid-mode=ON --enforce-gtid-consistency=ON \
        --binlog-row-metadata=FULL --binlog-rows-query-log-events=ON \
        --datadir="$demo/mysql" --port="$mysql_port" --bind-address=127.0.0.1 --socket=mysqld.sock --pid-file=mysqld.pid \
        --skip-name-resolve --mysqlx=OFF --secure-file-priv= --performance-schema=OFF --innodb-buffer-pool-size=64M
    eventually mysqld mysql_answers
    say "MySQL $(mysql_query 'SELECT VERSION()') on 127.0.0.1:$mysql_port"
}

start_mongodb() {
    title "Starting MongoDB"
    mkdir "$demo/mongodb"
    mongo_port=$(free_port)
    mongo_uri="mongodb://127.0.0.1:$mongo_port/?replicaSet=rs0"
    reader_command=("$SDL_PYTHON" "$demo/reader.py" "$mongo_uri" "$database")
    launch mongod "$demo" "$SDL_MONGOD" --dbpath "$demo/mongodb" --port "$mongo_port" --bind_ip 127.0.0.1 --nounixsocket \
        --replSet rs0 --wiredTigerCacheSizeGB 0.5
    eventually mongod reader initiate "127.0.0.1:$mongo_port"
    say "MongoDB $(reader version), a replica set of one member, on 127.0.0.1:$mongo_port"
}

start_sdl() {
    title "Starting sdl"
    # sdl reads .env from its working directory; .env.example explains all settings.
    cat >"$demo/.env" <<SETTINGS
MYSQL_ADDR=127.0.0.1:$mysql_port
MYSQL_USER=sdl
MYSQL_PASS=sdl-secret
MYSQL_SERVER_ID=4711
MONGO_URI=$mongo_uri
MONGO_DB=$database
START_FROM=earliest
SETTINGS
    say "Its settings, in target/demo/.env:"
    quoted <"$demo/.env"
    # In an environment of its own: a MYSQL_ADDR of the caller's would win over the file.
    launch sdl "$demo" env -i PATH="$PATH" "$(realpath "${CARGO_TARGET_DIR:-target}")/release/sdl"
    eventually sdl grep --quiet 'Starting from' "${logs[sdl]}"
    say "Its log, target/demo/sdl.log:"
    quoted <"${logs[sdl]}"
}

# --- the shop ---------------------------------------------------------------------------------------------------------
# What `reader check` expects is written down in write_reader, next to how it is checked. A change here is a change there.

play() {
    chapter "A shop opens" <<'SQL'
CREATE DATABASE shop;
USE shop;
CREATE TABLE customers (
    id INT UNSIGNED PRIMARY KEY, name VARCHAR(100) NOT NULL, email VARCHAR(200) NOT NULL, city VARCHAR(100),
    since TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3));
CREATE TABLE products (
    id INT UNSIGNED PRIMARY KEY, name VARCHAR(100) NOT NULL, price DECIMAL(10,2) NOT NULL, stock INT NOT NULL, attributes JSON);
CREATE TABLE orders (
    id BIGINT UNSIGNED PRIMARY KEY, customer_id INT UNSIGNED NOT NULL, status ENUM('new', 'paid', 'sent') NOT NULL,
    total DECIMAL(10,2) NOT NULL, placed TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3));
CREATE TABLE order_items (
    order_id BIGINT UNSIGNED, line SMALLINT, product_id INT UNSIGNED NOT NULL, quantity INT NOT NULL, price DECIMAL(10,2) NOT NULL,
    PRIMARY KEY (order_id, line));
SQL
    chapter "Customers from all over the world: one statement, five rows" <<'SQL'
INSERT INTO customers (id, name, email, city) VALUES
    (1, 'Zoë Ångström', 'zoe@example.org', 'Malmö'),
    (2, 'Ольга Иванова', 'olga@example.org', 'Київ'),
    (3, '王小明', 'wang@example.org', '北京'),
    (4, 'ليلى حسن', 'layla@example.org', 'القاهرة'),
    (5, 'Emoji 🚲🎈', 'emoji@example.org', NULL);
SQL
    chapter "Products, with JSON" <<'SQL'
INSERT INTO products VALUES
    (1, 'Fahrradklingel', 12.90, 40, '{"colour": "grün", "weight": 0.12}'),
    (2, '茶 Tea', 7.50, 100, '{"origin": "云南", "organic": true, "tags": ["green", "loose"]}'),
    (3, 'Самовар', 249.00, 3, '{"litres": 3.5, "parts": {"tap": "brass", "lid": null}}');
SQL
    chapter "An order: one transaction over three tables" <<'SQL'
START TRANSACTION;
INSERT INTO orders (id, customer_id, status, total) VALUES (1001, 1, 'new', 264.00);
INSERT INTO order_items VALUES (1001, 1, 3, 1, 249.00), (1001, 2, 2, 2, 7.50);
UPDATE products SET stock = stock - 1 WHERE id = 3;
UPDATE products SET stock = stock - 2 WHERE id = 2;
COMMIT;
SQL
    chapter "A change of mind: rolled back, so no document" <<'SQL'
START TRANSACTION;
INSERT INTO orders (id, customer_id, status, total) VALUES (6666, 2, 'new', 66.66);
UPDATE customers SET city = 'never happened' WHERE id = 2;
ROLLBACK;
SQL
    chapter "Half a change of mind: what comes after the savepoint leaves no document" <<'SQL'
START TRANSACTION;
INSERT INTO orders (id, customer_id, status, total) VALUES (1002, 3, 'new', 12.90);
INSERT INTO order_items VALUES (1002, 1, 1, 1, 12.90);
SAVEPOINT second_thoughts;
INSERT INTO order_items VALUES (1002, 2, 3, 66, 66.66);
ROLLBACK TO second_thoughts;
COMMIT;
SQL
    chapter "Life goes on: updates, one of them inside a JSON value" <<'SQL'
UPDATE orders SET status = 'paid' WHERE id IN (1001, 1002);
UPDATE products SET price = 229.00, attributes = JSON_SET(attributes, '$.sale', CAST('2024-12-24' AS DATE), '$.parts.tap', '黄铜') WHERE id = 3;
SQL
    chapter "The table changes, and sdl with it" <<'SQL'
ALTER TABLE customers ADD COLUMN phone VARCHAR(40) AFTER name;
UPDATE customers SET phone = '+86 10 1234' WHERE id = 3;
INSERT INTO customers (id, name, phone, email) VALUES (6, 'José Muñoz', '+34 600 000', 'jose@example.org');
SQL
    chapter "Things end: a cancelled order, a customer who leaves" <<'SQL'
START TRANSACTION;
DELETE FROM order_items WHERE order_id = 1002;
DELETE FROM orders WHERE id = 1002;
COMMIT;
DELETE FROM customers WHERE id = 5;
SQL
}

# chapter TITLE: prints the SQL of stdin and runs it.
chapter() {
    title "$1"
    local sql
    sql=$(cat)
    quoted <<<"$sql"
    local use=()
    [[ $sql == CREATE\ DATABASE* ]] || use=(shop)
    mysql_client "${use[@]}" <<<"$sql" || die "MySQL refused the statements above"
}

# --- the audit --------------------------------------------------------------------------------------------------------

wait_for_sdl() {
    executed=$(mysql_query "SELECT REPLACE(@@GLOBAL.gtid_executed, '\n', '')")
    eventually sdl sdl_has_committed "$executed"
}

sdl_has_committed() {
    local saved
    saved=$(reader saved) && [[ $saved ]] && [[ $(mysql_query "SELECT GTID_SUBSET('$1', '$saved')") == 1 ]]
}

show() {
    title "The audit: one document for each change, in the order of their commits (collection row_changes)"
    reader changes
    title "Three of them in full"
    reader documents
    title "The offset: committed together with the documents (collection binlog_offsets)"
    reader offset
    say "MySQL has executed $executed"
    say "Staged and not committed (collection row_changes_staging): $(reader staged)"
}

check() {
    title "Is exactly what was expected there?"
    reader check "$executed" || die "the audit is not what was expected"
    local process=${running[sdl]} status=0
    stop sdl
    wait "$process" || status=$?
    ((status == 0)) || die_of sdl "sdl ended with status $status when it was asked to stop"
    grep --quiet 'Shutdown complete' "${logs[sdl]}" || die_of sdl "sdl did not say that its shutdown is complete"
    say "yes"
}

how_to_go_on() {
    title "Go on yourself"
    say "change something in another terminal, and its documents appear below:"
    say "    $(printf '%q' "$SDL_MYSQL") --host=127.0.0.1 --port=$mysql_port --user=root --default-character-set=utf8mb4 shop"
    say "look further with mongosh:"
    say "    $(mongosh_command) 'mongodb://127.0.0.1:$mongo_port/$database?replicaSet=rs0'"
    quoted <<'QUERIES'
// what happened to the products
db.row_changes.find({ op: "update", "meta.tbl": "products" }).sort({ n: 1 })
// the history of one row
db.row_changes.find({ "meta.pk": 3, "meta.db": "shop", "meta.tbl": "customers" }).sort({ n: 1 })
// every change of a price
db.row_changes.find({ changed: "price" }, { ts: 1, "before.price": 1, "after.price": 1 })
// how much of what
db.row_changes.aggregate([{ $group: { _id: { op: "$op", table: "$meta.tbl" }, changes: { $sum: 1 } } }])
QUERIES
    say "Ctrl-C ends the demo."
}

# How this machine gets to mongosh.
mongosh_command() {
    if [[ $SDL_MONGOSH ]]; then
        printf '%q' "$SDL_MONGOSH"
    elif type -P npx >/dev/null; then
        printf 'npx --yes mongosh@2'
    else
        printf 'mongosh' # not here; the URI is right from wherever it is
    fi
}

# Prints further documents until Ctrl-C, or until something breaks.
follow() {
    trap 'exit 0' INT
    setpriv --pdeathsig KILL -- "${reader_command[@]}" follow 9>&- &
    running[follow]=$!
    wait -n "${running[@]}" || true
    local name
    for name in mysqld mongod sdl; do
        kill -0 "${running[$name]}" 2>/dev/null || die_of "$name" "$name has ended"
    done
    die "cannot read the audit any more"
}

# --- processes --------------------------------------------------------------------------------------------------------

# launch NAME DIRECTORY COMMAND…: in the background, with its output in the log.
# In a session of its own, so that Ctrl-C reaches this script only, which then stops things in the right order; and guarded:
# the kernel kills it when this script dies without having been able to.
launch() {
    local name=$1 directory=$2
    shift 2
    (cd "$directory" && exec setsid setpriv --pdeathsig KILL -- "$@") >>"${logs[$name]}" 2>&1 </dev/null 9>&- &
    running[$name]=$!
}

# eventually NAME CONDITION…: waits until the command succeeds, as long as the process lives.
eventually() {
    local name=$1 deadline=$((SECONDS + patience))
    shift
    until "$@"; do
        kill -0 "${running[$name]}" 2>/dev/null || die_of "$name" "$name has ended"
        ((SECONDS < deadline)) || die_of "$name" "not within $patience s: $*"
        sleep 0.1
    done
}

# stop NAME [SIGNAL]: asks it to end, by SIGTERM if nothing else is said, and kills it only if that does not help.
stop() {
    local process=${running[$1]:-} deadline=$((SECONDS + patience))
    [[ $process ]] || return 0
    unset "running[$1]"
    kill "-${2:-TERM}" "$process" 2>/dev/null || return 0
    { # bash would say "Killed" here, as if something were wrong
        while kill -0 "$process"; do
            ((SECONDS < deadline)) || kill -KILL "$process" || true
            sleep 0.05
        done
    } 2>/dev/null
}

clean_up() {
    local status=$?
    trap '' INT TERM HUP
    if ((${#running[@]})); then
        title "Stopping"
        # Readers before what they read from, so that nobody complains. The servers have nothing to save; asked politely,
        # mysqld takes 10 s once a replica has been connected.
        stop follow
        stop sdl
        stop mongod KILL
        stop mysqld KILL
        say "nothing is left running; what they wrote is in target/demo"
    fi
    exit "$status"
}

# A port that nothing listens on, below the range that the kernel gives to outgoing connections.
free_port() {
    local port
    while :; do
        port=$((15000 + RANDOM % 15000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

mysql_client() {
    "$SDL_MYSQL" --no-defaults --host=127.0.0.1 --port="$mysql_port" --user=root --default-character-set=utf8mb4 "$@" 9>&-
}
mysql_query() { mysql_client --batch --raw --skip-column-names --execute="$1" </dev/null; }
mysql_answers() { mysql_query 'SELECT 1' >/dev/null 2>&1; }

# Ctrl-C is for this script alone, as in launch: a reader ends within seconds anyway.
reader() { (trap '' INT && exec "${reader_command[@]}" "$@" 9>&-); }

# --- reading the audit ------------------------------------------------------------------------------------------------

# Written to a file rather than piped, so that its standard input stays free.
write_reader() {
    cat >"$demo/reader.py" <<'PYTHON'
"""Prints and checks the audit of deploy/demo.sh."""

import json
import shutil
import sys
import time
from collections import Counter

from bson import Binary, Decimal128, json_util
from pymongo import MongoClient
from pymongo.errors import PyMongoError


def changes(database, after=0):
    return database.row_changes.find({"n": {"$gt": after}}).sort("n", 1)


# --- printing ---


def short(value):
    if isinstance(value, (Binary, bytes)):
        return "0x" + value.hex()
    if isinstance(value, Decimal128):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, dict, list)):
        return json.dumps(value, ensure_ascii=False, default=short)
    return str(value)


def differences(name, before, after):
    """What an update changed in a value; of a JSON object, what changed inside."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            if before.get(key) != after.get(key):
                yield from differences(f"{name}.{key}", before.get(key), after.get(key))
    else:
        yield f"{name}: {short(before)} → {short(after)}"


def summary(change):
    """The change in a few words: the values beside the key, or for an update the old and the new ones."""
    if change["op"] == "update":
        before, after = change["before"], change["after"]
        words = [word for name in change["changed"] for word in differences(name, before.get(name), after.get(name))]
    elif change["op"] in ("insert", "delete"):
        image, key = dict(change["after" if change["op"] == "insert" else "before"]), change["meta"].get("pk")
        for name in key if isinstance(key, dict) else [name for name in image if image[name] == key][:1]:
            del image[name]  # it stands in its own column
        words = [f"{name}={short(value)}" for name, value in image.items() if value is not None]
    else:
        words = [" ".join(change["meta"].get("query", "").split())]
    return ", ".join(words)


def line(n, clock, transaction, op, table, key, what):
    width = max(100, shutil.get_terminal_size((140, 50)).columns)
    text = f"{n:>4}  {clock:<12}  {transaction:>5}  {op:<7}  {table:<17}  {key:<10}  {what}"
    print(text if len(text) <= width else text[: width - 1] + "…", flush=True)


def print_change(change):
    meta = change["meta"]
    key = meta.get("pk", "")
    key = ", ".join(map(short, key.values())) if isinstance(key, dict) else short(key)
    table = ".".join(part for part in (meta.get("db"), meta.get("tbl")) if part)
    clock = change["ts"].strftime("%H:%M:%S.%f")[:-3]
    line(change["n"], clock, ":" + meta["gtid"].rsplit(":")[-1], change["op"], table, key, summary(change))


def print_changes(database):
    line("n", "time (UTC)", "gtid", "op", "table", "key", "what")
    for change in changes(database):
        print_change(change)


def print_documents(database):
    wanted = [
        {"op": "insert", "meta.tbl": "customers", "meta.pk": 3},
        {"op": "update", "meta.tbl": "products", "changed": "price"},
        {"op": "ddl", "meta.query": {"$regex": "^ALTER"}},
    ]
    for query in wanted:
        for change in database.row_changes.find(query).sort("n", 1).limit(1):
            print_document(change)


def print_document(document):
    options = json_util.JSONOptions(json_mode=json_util.JSONMode.RELAXED, tz_aware=False)
    print(json_util.dumps(document, json_options=options, indent=2, ensure_ascii=False), flush=True)


def follow(database):
    last = database.row_changes.find_one(sort=[("n", -1)])["n"]
    while True:
        for change in changes(database, last):
            print_change(change)
            last = change["n"]
        time.sleep(0.2)


# --- checking ---

EXPECTED = {
    ("ddl", "create database"): 1,
    ("ddl", "create table"): 4,
    ("ddl", "alter table"): 1,
    ("insert", "customers"): 6,
    ("insert", "products"): 3,
    ("insert", "orders"): 2,
    ("insert", "order_items"): 3,
    ("update", "customers"): 1,
    ("update", "products"): 3,
    ("update", "orders"): 2,
    ("delete", "customers"): 1,
    ("delete", "orders"): 1,
    ("delete", "order_items"): 1,
}
CUSTOMERS = ["Zoë Ångström", "Ольга Иванова", "王小明", "ليلى حسن", "Emoji 🚲🎈", "José Muñoz"]
ROLLED_BACK = ("never happened", "66.66", "6666")


def kind(change):
    if change["op"] == "ddl":
        return "ddl", " ".join(change["meta"]["query"].lower().split()[:2])
    return change["op"], change["meta"]["tbl"]


def problems(database, executed):
    everything = list(changes(database))
    found = Counter(map(kind, everything))
    for what in sorted(set(EXPECTED) | set(found)):
        if found[what] != EXPECTED.get(what, 0):
            yield f"{' '.join(what)}: {EXPECTED.get(what, 0)} expected, {found[what]} there"
    if [change["n"] for change in everything] != list(range(1, len(everything) + 1)):
        yield "n is not 1, 2, 3 …"

    rows = [change for change in everything if change["op"] in ("insert", "update", "delete")]
    of = lambda op, table: [change for change in rows if kind(change) == (op, table)]
    for change in rows:
        for value in ROLLED_BACK:
            if value in json_util.dumps([change.get("before"), change.get("after")], ensure_ascii=False):
                yield f"rolled back, and there all the same: {value}"

    inserted = of("insert", "customers")
    if [change["after"]["name"] for change in inserted] != CUSTOMERS:
        yield "the customers' names are not what was inserted"
    if [change["meta"]["row"] for change in inserted[:5]] != [0, 1, 2, 3, 4]:
        yield "the rows of the first INSERT are not numbered 0 to 4"
    if ["query" in change["meta"] for change in inserted[:5]] != [True, False, False, False, False]:
        yield "the text of a statement does not stand on its first row only"
    if ["phone" in change["after"] for change in inserted] != [False] * 5 + [True]:
        yield "the new column is not exactly where it should be"
    if [(change["changed"], change["after"]["phone"]) for change in of("update", "customers")] != [(["phone"], "+86 10 1234")]:
        yield "the update after the ALTER TABLE is not what it was"

    sale = [change for change in of("update", "products") if "price" in change["changed"]]
    tea, samovar = of("insert", "products")[1:3]
    if tea["after"]["attributes"] != {"origin": "云南", "organic": True, "tags": ["green", "loose"]}:
        yield "a JSON value is not what was inserted"
    if [change["before"] for change in sale] != [dict(samovar["after"], stock=2)]:
        yield "the row before its price changed is not what it was"
    if [change["changed"] for change in sale] != [["price", "attributes"]] or sale[0]["after"]["price"] != Decimal128("229.00"):
        yield "the change of a price is not what it was"
    if [change["after"]["attributes"]["parts"] for change in sale] != [{"tap": "黄铜", "lid": None}]:
        yield "the change inside a JSON value is not what it was"

    order = [change for change in rows if change["meta"]["gtid"] == of("insert", "orders")[0]["meta"]["gtid"]]
    if [kind(change) for change in order] != [("insert", "orders")] + 2 * [("insert", "order_items")] + 2 * [("update", "products")]:
        yield "the transaction over three tables is not together"
    if [change["meta"]["stmt"] for change in order] != [0, 1, 1, 2, 3]:
        yield "the statements of the transaction are not numbered as they were run"
    if list(order[2]["meta"]["pk"].items()) != [("order_id", 1001), ("line", 2)]:
        yield "a key of two columns is not a document in key order"

    offset = database.binlog_offsets.find_one()
    if offset["n"] != len(everything):
        yield f"the offset counts {offset['n']} documents, there are {len(everything)}"
    if offset["gtid"].replace("\n", "").lower() != executed.lower():
        yield f"the offset is {offset['gtid']}, MySQL has executed {executed}"
    if staged(database):
        yield f"{staged(database)} batches are staged and not committed"


def staged(database):
    return database.row_changes_staging.count_documents({"status": "pending"})


def check(database, executed):
    found = list(problems(database, executed))
    for problem in found:
        print(f"    {problem}")
    if not found:
        print(f"    {sum(EXPECTED.values())} documents, as expected; what was rolled back is not among them; staging is empty")
    return not found


# --- setting up ---


def initiate(address):
    """Makes the server a replica set; false until it is one and takes writes."""
    client = MongoClient(f"mongodb://{address}/?directConnection=true", serverSelectionTimeoutMS=500)
    try:
        hello = client.admin.command("hello")
        if "setName" not in hello:
            client.admin.command("replSetInitiate", {"_id": "rs0", "members": [{"_id": 0, "host": address}]})
        return hello.get("isWritablePrimary") and "setName" in hello
    except PyMongoError:
        return False


def main(uri, name, command, *arguments):
    if command == "initiate":
        return initiate(*arguments)
    client = MongoClient(uri, serverSelectionTimeoutMS=10_000)
    database = client[name]
    if command == "version":
        print(client.server_info()["version"])
    elif command == "saved":
        offset = database.binlog_offsets.find_one()
        print(offset["gtid"].replace("\n", "") if offset else "")
    elif command == "changes":
        print_changes(database)
    elif command == "documents":
        print_documents(database)
    elif command == "offset":
        print_document(database.binlog_offsets.find_one())
    elif command == "staged":
        print(staged(database))
    elif command == "follow":
        follow(database)
    elif command == "check":
        return check(database, *arguments)
    return True


sys.exit(0 if main(*sys.argv[1:]) else 1)
PYTHON
}

main "$@"
