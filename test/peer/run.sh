#!/usr/bin/env bash
# Toxiproxy's own API tests, unmodified, against `chaosctl proxy serve`.
#
# The tests talk to 127.0.0.1:8475, where they try to start a Toxiproxy and do not
# look at whether that worked: our server is there already, and gets every call.
# Each test runs alone, on a server without proxies. Prints "34 of 34", else which
# failed and why, with exit code 1.
set -euo pipefail
cd "$(dirname "$0")"

api=127.0.0.1:8475
dir=$(mktemp -d)
server=
cleanup() {
	if [ -n "$server" ]; then
		kill "$server" 2>/dev/null || true
		wait "$server" 2>/dev/null || true
	fi
	rm -rf "$dir"
}
trap cleanup EXIT

(cd ../.. && go build -o "$dir/chaosctl" ./cmd/chaosctl)
go test -c -o "$dir/peer.test" github.com/Shopify/toxiproxy/v2
source=$(go list -m -f '{{.Dir}}' github.com/Shopify/toxiproxy/v2)
mapfile -t tests < <(sed -nE 's/^func (Test[A-Za-z0-9_]+)\(.*/\1/p' "$source/api_test.go")
if [ "${#tests[@]}" -ne 34 ]; then
	echo "api_test.go has ${#tests[@]} tests, 34 were expected: has the version changed?" >&2
	exit 1
fi

"$dir/chaosctl" proxy serve --listen "$api" >"$dir/address" 2>"$dir/log" &
server=$!
until [ -s "$dir/address" ]; do # the address stands there once calls are taken
	if ! kill -0 "$server" 2>/dev/null; then
		cat "$dir/log" >&2
		exit 1
	fi
	sleep 0.05
done

client() { "$dir/chaosctl" proxy "$@" --host "http://$api"; }

passed=0
for t in "${tests[@]}"; do
	for p in $(client list | awk 'NR > 1 { print $1 }'); do
		client delete "$p" >/dev/null
	done
	if "$dir/peer.test" -test.run "^$t\$" -test.timeout 60s -test.count 1 >"$dir/out" 2>&1; then
		passed=$((passed + 1))
	else
		echo "--- $t"
		cat "$dir/out"
	fi
done

kill -TERM "$server"
if ! wait "$server"; then
	server=
	echo "the server did not end cleanly:"
	cat "$dir/log"
	exit 1
fi
server=
echo "$passed of ${#tests[@]}"
[ "$passed" -eq "${#tests[@]}" ]
