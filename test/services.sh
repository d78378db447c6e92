#!/usr/bin/env bash
# Real PostgreSQL, Redis and nginx behind `chaosctl proxy serve`: whatever toxics
# that must not change bytes come and go, what was stored is what is read, and
# those that end connections end them. Then Redis and PostgreSQL are targets of
# `chaosctl load` and of a scenario.
#
#   bash test/services.sh
#
# Starts its own servers, on ports of the system's choosing, in a folder of its
# own, and ends them. Needs bin/chaosctl (make build) and the Debian packages
# postgresql, redis-server and nginx-light; a server that is absent is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/bin/chaosctl
dir=$(mktemp -d -p /tmp) # not below TMPDIR: the user that PostgreSQL runs as may not get there
chmod 755 "$dir"
pids=()
cleanup() {
	for pid in "${pids[@]}"; do kill -INT "$pid" 2>/dev/null || true; done # to PostgreSQL: do not wait for clients
	for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
	rm -rf "$dir"
}
trap cleanup EXIT

say() { printf '%s\n' "$*"; }
die() { say "FAILED: $*"; exit 1; }
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
# await N COMMAND...: until it succeeds, at most N times 0.1 s.
await() {
	local n=$1
	shift
	until "$@" >/dev/null 2>&1; do
		[ $((n -= 1)) -gt 0 ] || die "waited in vain for: $*"
		sleep 0.1
	done
}

postgres=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
pg=$(port) redis=$(port) web=$(port) api=$(port)

# As a user of its own: PostgreSQL refuses to run as root.
as=()
[ "$(id -u)" != 0 ] || as=(setpriv --reuid=postgres --regid=postgres --clear-groups)
install -d -m 700 "$dir/pg"
[ "$(id -u)" != 0 ] || chown postgres: "$dir/pg"
"${as[@]}" "$postgres/initdb" -D "$dir/pg" -A trust -U bench >/dev/null
"${as[@]}" "$postgres/postgres" -D "$dir/pg" -h 127.0.0.1 -p "$pg" -k '' -c fsync=off >"$dir/pg.log" 2>&1 &
pids+=($!)
redis-server --port "$redis" --bind 127.0.0.1 --save '' --dir "$dir" >"$dir/redis.log" 2>&1 &
pids+=($!)
mkdir -p "$dir/www"
head -c 50000000 /dev/urandom >"$dir/www/file"
cat >"$dir/nginx.conf" <<EOF
daemon off; pid $dir/nginx.pid; error_log stderr; events {}
http {
	access_log off; sendfile on;
	client_body_temp_path $dir/body; proxy_temp_path $dir/proxy; fastcgi_temp_path $dir/fcgi; uwsgi_temp_path $dir/uwsgi; scgi_temp_path $dir/scgi;
	server { listen 127.0.0.1:$web; root $dir/www; }
}
EOF
nginx -c "$dir/nginx.conf" -e stderr >"$dir/nginx.log" 2>&1 &
pids+=($!)

cat >"$dir/proxies.json" <<EOF
[{"name": "pg", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:$pg"},
 {"name": "redis", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:$redis"},
 {"name": "web", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:$web"}]
EOF
"$bin" proxy serve --listen "127.0.0.1:$api" --config "$dir/proxies.json" --seed 7 >"$dir/address" 2>"$dir/proxy.log" &
server=$!
pids+=("$server")
await 100 test -s "$dir/address"
export TOXIPROXY_URL=http://127.0.0.1:$api
proxy() { "$bin" proxy "$@" >/dev/null; }
behind() { "$bin" proxy list --output json | python3 -c 'import json, sys; d = json.load(sys.stdin); d = d if isinstance(d, dict) else {p["name"]: p for p in d}; print(d[sys.argv[1]]["listen"].split(":")[1])' "$1"; }
pgp=$(behind pg) redisp=$(behind redis) webp=$(behind web)
sql() { "$postgres/psql" -h 127.0.0.1 -p "$pgp" -U bench -d postgres -qAt "$@"; }
await 100 sql -c 'select 1'
await 100 redis-cli -p "$redisp" ping
await 100 curl -sf "http://127.0.0.1:$webp/file" -o /dev/null
# between LOW HIGH VALUE WHAT: numbers, also with decimals.
between() { awk -v l="$1" -v h="$2" -v v="$3" 'BEGIN { exit !(l <= v && v < h) }' || die "$4: $3, want from $1 to $2"; }
hits() { "$bin" proxy inspect "$1" --output json | python3 -c 'import json, sys; print(sum(t["fired"] for t in json.load(sys.stdin)["stats"]["toxics"]))'; }

say "--- what each toxic does is seen by the client, and counted"
proxy toxic add -t latency -n x -a latency=150 pg
slow=$(sql -c '\timing on' -c 'select 1' | sed -nE 's/^Time: ([0-9.]+) ms.*/\1/p')
between 150 400 "$slow" "what psql takes for a query, in ms, through a latency of 150 ms"
[ "$(hits pg)" -ge 1 ] || die "the latency was not counted"
proxy toxic remove -n x pg
fast=$(sql -c '\timing on' -c 'select 1' | sed -nE 's/^Time: ([0-9.]+) ms.*/\1/p')
between 0 100 "$fast" "what psql takes for a query, in ms, without"
proxy toxic add -t bandwidth -n x -a rate=20000 web
rate=$(curl -sS "http://127.0.0.1:$webp/file" -o /dev/null -w '%{speed_download}')
# Never more than that; how exact it is on a quiet machine, bench-proxy measures.
between 12000000 20600000 "$rate" "bytes per second of 50 MB from nginx, through 20 MB/s"
proxy toxic remove -n x web
say "psql: $slow ms with 150 ms of latency, $fast ms without; curl: $rate B/s at 20 MB/s"
# A client that is open and idle, on a descriptor of this shell, is reset too.
exec 7<>"/dev/tcp/127.0.0.1/$redisp"
printf 'PING\r\n' >&7
IFS= read -r -t 5 pong <&7
[ "${pong%$'\r'}" = +PONG ] || die "Redis says $pong"
proxy toxic add -t reset_peer -n x redis
! IFS= read -r -t 5 pong <&7 2>"$dir/reset" || die "an idle connection to Redis was not reset: $pong"
grep -q 'reset by peer' "$dir/reset" || die "an idle connection to Redis ended otherwise: $(cat "$dir/reset")"
exec 7>&-
proxy toxic remove -n x redis

say "--- bytes are the same through every toxic that only delays"
want=$(sha256sum <"$dir/www/file")
sql -c "create table t as select i, md5(i::text) as h from generate_series(1, 20000) i"
rows=$("$postgres/psql" -h 127.0.0.1 -p "$pg" -U bench -d postgres -qAt -c "select * from t order by i" | sha256sum)
toxics=(
	"-t latency -a latency=20 -a jitter=15"
	"-t slicer -a average_size=1000 -a size_variation=900 -a delay=1"
	"-t bandwidth -a rate=40000"
	"-t packet_loss -a loss_rate=0.02 -a correlation=0.2"
	"-t slow_close -a delay=50"
)
for stream in --downstream --upstream; do
	for toxic in "${toxics[@]}"; do
		# shellcheck disable=SC2086 # the words of a toxic
		for p in pg redis web; do proxy toxic add $toxic -n x $stream $p; done
		[ "$(curl -sS "http://127.0.0.1:$webp/file" | sha256sum)" = "$want" ] || die "nginx through $toxic $stream"
		[ "$(sql -c 'select * from t order by i' | sha256sum)" = "$rows" ] || die "PostgreSQL through $toxic $stream"
		[ "$(head -c 200000 "$dir/www/file" | base64 -w0 | redis-cli -p "$redisp" -x set k)" = OK ] || die "Redis takes no value through $toxic $stream"
		[ "$(redis-cli -p "$redisp" get k | base64 -d | sha256sum)" = "$(head -c 200000 "$dir/www/file" | sha256sum)" ] || die "Redis through $toxic $stream"
		for p in pg redis web; do proxy toxic remove -n x $p; done
	done
done

say "--- toxics come and go under a running pgbench, and no transaction is lost"
"$postgres/pgbench" -h 127.0.0.1 -p "$pg" -U bench -i -q postgres >/dev/null 2>&1
"$postgres/pgbench" -h 127.0.0.1 -p "$pgp" -U bench -c 8 -j 2 -T 8 postgres >"$dir/pgbench" 2>&1 &
bench=$!
while kill -0 "$bench" 2>/dev/null; do
	proxy toxic add -t latency -n x -a latency=5 pg
	proxy toxic add -t slicer -n y -a average_size=40 -a size_variation=39 --upstream pg
	proxy toxic update -n x -a latency=1 -a jitter=1 pg
	proxy toxic remove -n y pg
	proxy toxic remove -n x pg
done
wait "$bench" || { cat "$dir/pgbench"; die "pgbench"; }
done_=$(sed -nE 's/^number of transactions actually processed: ([0-9]+).*/\1/p' "$dir/pgbench")
failed=$(sed -nE 's/^number of failed transactions: ([0-9]+).*/\1/p' "$dir/pgbench")
stored=$(sql -c 'select count(*) from pgbench_history')
[ "${failed:-0}" = 0 ] && [ "$done_" = "$stored" ] || die "pgbench counts $done_ transactions, ${failed:-0} failed; the database has $stored"
[ "$(sql -c 'select sum(abalance) from pgbench_accounts')" = "$(sql -c 'select sum(delta) from pgbench_history')" ] || die "the balances do not add up"
say "$done_ transactions, as many rows"

say "--- redis-benchmark through a proxy without and with a toxic"
redis-benchmark -p "$redisp" -t set,get -n 20000 -c 20 -q | tr '\r' '\n' | grep 'requests per second'
proxy toxic add -t latency -n x -a latency=10 redis
slow=$(redis-benchmark -p "$redisp" -t get -n 400 -c 4 --csv | tail -1)
say "$slow"
python3 -c 'import sys; p50 = float(sys.argv[1].split(",")[4].strip("\"")); sys.exit(not 10 <= p50 < 20)' "$slow" || die "a latency of 10 ms is not what redis-benchmark saw"

say "--- what ends connections ends them"
proxy toxic add -t reset_peer -n r redis
! redis-cli -p "$redisp" ping >/dev/null 2>&1 || die "reset_peer let a PING through"
proxy reset
[ "$(redis-cli -p "$redisp" ping)" = PONG ] || die "Redis after reset"
proxy toxic add -t limit_data -n l -a bytes=1000000 web
got=$(curl -s "http://127.0.0.1:$webp/file" | wc -c || true)
[ "$got" -gt 0 ] && [ "$got" -le 1000000 ] || die "limit_data let $got bytes through"
proxy toggle pg
! sql -c 'select 1' >/dev/null 2>&1 || die "a disabled proxy takes connections"
proxy toggle pg
[ "$(sql -c 'select 1')" = 1 ] || die "PostgreSQL after toggling"

say "--- load on Redis and PostgreSQL, with a login, an error, and a proxy that is slow"
rdpw=$(port)
redis-server --port "$rdpw" --bind 127.0.0.1 --save '' --requirepass topsecret --dir "$dir" >"$dir/redis-login.log" 2>&1 &
pids+=($!)
await 100 redis-cli -p "$rdpw" -a topsecret --no-auth-warning ping
sql -c "create table orders (id serial primary key, who text not null unique)" -c "create user shop password 'sesame'" -c "grant all on orders, orders_id_seq to shop"
load() { "$bin" load "$@" -q --output json >"$dir/load.json"; }
# outcome NAME N WHAT: so many requests of the last load ended so.
outcome() {
	[ "$(python3 -c 'import json, sys; print(json.load(open(sys.argv[2]))["outcomes"].get(sys.argv[1], 0))' "$1" "$dir/load.json")" = "$2" ] ||
		{ cat "$dir/load.json"; die "$3"; }
}
load "redis://:topsecret@127.0.0.1:$rdpw/3" --command 'SET key-{{seq}} {{words 3}}' --requests 500 --rate 1000/s
outcome answered 500 "SET on Redis"
[ "$(redis-cli -p "$rdpw" -a topsecret --no-auth-warning -n 3 dbsize)" = 500 ] || die "Redis has other keys than were set"
load "redis://:topsecret@127.0.0.1:$rdpw/3" --command 'INCR key-1' --requests 5
outcome "error ERR" 5 "INCR of a text is an error"
load "redis://127.0.0.1:$rdpw" --command 'GET x' --requests 5
outcome "error NOAUTH" 5 "a login is missing"
load "postgres://shop@127.0.0.1:$pg/postgres" --query 'insert into orders (who) values ($1) returning id' --arg 'user {{seq}}' --requests 300 --rate 500/s
outcome answered 300 "insert"
[ "$(sql -c 'select count(*) from orders')" = 300 ] || die "PostgreSQL has other rows than were inserted"
load "postgres://shop@127.0.0.1:$pg/postgres" --query 'insert into orders (who) values ($1)' --arg 'user {{seq}}' --requests 5
outcome "error 23505" 5 "unique violations"
load "postgres://shop@127.0.0.1:$pg/postgres" --query 'select pg_sleep(5)' --requests 3 --timeout 300ms
outcome timeout 3 "queries that take too long"
proxy toxic add -t latency -n x -a latency=20 redis
load "redis://127.0.0.1:$redisp" --command PING --requests 50 --users 1
outcome answered 50 "PING through a slow proxy"
python3 -c 'import json, sys; sys.exit(json.load(open(sys.argv[1]))["p50_s"] < 0.02)' "$dir/load.json" || { cat "$dir/load.json"; die "20 ms of latency are not in the median"; }
proxy toxic remove -n x redis

say "--- the same over TLS: certificates are checked, where that is asked for"
mkdir -m 755 "$dir/tls"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
	-keyout "$dir/tls/key.pem" -out "$dir/tls/cert.pem" 2>/dev/null
install -m 600 "$dir/tls/key.pem" "$dir/pg/server.key"
install -m 600 "$dir/tls/cert.pem" "$dir/pg/server.crt"
[ "$(id -u)" != 0 ] || chown postgres: "$dir/pg/server.key" "$dir/pg/server.crt"
"$postgres/psql" -h 127.0.0.1 -p "$pg" -U bench -d postgres -qAt -c "alter system set ssl = on" -c "select pg_reload_conf()" >/dev/null
await 100 "$postgres/psql" "host=127.0.0.1 port=$pg user=bench dbname=postgres sslmode=require" -qAt -c 'select 1'
query="select ssl from pg_stat_ssl where pid = pg_backend_pid()"
load "postgres://shop@localhost:$pg/postgres?sslmode=require" --query "$query" --requests 20 --users 2
outcome answered 20 "sslmode=require"
load "postgres://shop@localhost:$pg/postgres?sslmode=verify-full" --cacert "$dir/tls/cert.pem" --query "$query" --requests 20 --users 2
outcome answered 20 "sslmode=verify-full with the authority"
cat >"$dir/tls.yaml" <<EOF
to: postgres://shop@localhost:$pg/postgres?sslmode=verify-full
steps: [{ query: "$query", check: ['json \$[0].ssl == true'] }]
EOF
load "$dir/tls.yaml" --cacert "$dir/tls/cert.pem" --requests 5 --users 1
outcome answered 5 "PostgreSQL itself says that the connection has TLS"
load "postgres://shop@localhost:$pg/postgres?sslmode=verify-full" --query 'select 1' --requests 2
outcome tls 2 "PostgreSQL with an unknown authority"
load "postgres://shop@127.0.0.1:$pg/postgres?sslmode=verify-full" --cacert "$dir/tls/cert.pem" --query 'select 1' --requests 2
outcome tls 2 "PostgreSQL with a certificate of another name"
rtls=$(port)
redis-server --port 0 --tls-port "$rtls" --bind 127.0.0.1 --save '' --tls-cert-file "$dir/tls/cert.pem" --tls-key-file "$dir/tls/key.pem" \
	--tls-auth-clients no --dir "$dir" >"$dir/redis-tls.log" 2>&1 &
pids+=($!)
await 100 redis-cli -p "$rtls" --tls --cacert "$dir/tls/cert.pem" -h localhost ping
load "rediss://localhost:$rtls" --cacert "$dir/tls/cert.pem" --command 'SET key-{{seq}} x' --requests 50 --users 2
outcome answered 50 "SET on Redis over TLS"
! "$bin" load "rediss://localhost:$rtls" --command PING --requests 1 -q >"$dir/load.out" 2>&1 || die "Redis with an unknown authority was loaded"
grep -q certificate "$dir/load.out" || { cat "$dir/load.out"; die "an unknown authority of Redis is not told as such"; }

cat >"$dir/stores.yaml" <<EOF
scenario: stores
target:
  services:
    cache: { address: "127.0.0.1:$rdpw" }
    orders: { address: "127.0.0.1:$pg" }
load:
  keys:
    to: cache
    protocol: redis
    rate: 100/s
    secrets: { cache: { env: CACHE_PASSWORD } }
    login: { password: "{{.secret.cache}}", database: 1 }
    requests:
      - SET key-{{int 1 100}} {{words 3}}
      - { command: [GET, "key-{{int 1 100}}"], weight: 3 }
  book:
    to: orders
    protocol: postgres
    users: 3
    think: 20ms
    login: { user: shop, database: postgres }
    steps:
      - begin
      - { query: "insert into orders (who) values (\$1) returning id", args: ["{{uuid}}"], check: [rows == 1], capture: { id: { json: "\$[0].id" } } }
      - { name: look, query: "select who from orders where id = \$1", args: ["{{.id}}"], check: [rows == 1] }
      - commit
phases: { before: 4s }
hypothesis:
  keys: { before: [ok >= 90%] }
  book: { before: [ok >= 90%] }
EOF
! XDG_STATE_HOME="$dir/state" "$bin" run "$dir/stores.yaml" --out "$dir/none" >/dev/null 2>"$dir/missing" || die "a run without its secret"
grep -q 'the environment has no CACHE_PASSWORD' "$dir/missing" || die "it does not say which variable is missing"
XDG_STATE_HOME="$dir/state" CACHE_PASSWORD=topsecret "$bin" run "$dir/stores.yaml" --out "$dir/run" >"$dir/run.txt" 2>&1 || { cat "$dir/run.txt"; die "the scenario on both"; }
! grep -rq topsecret "$dir/run" || die "the secret stands in what the run wrote"

kill -TERM "$server"
wait "$server" || { cat "$dir/proxy.log"; die "the proxy did not end cleanly"; }
say "services: all as it should be"
