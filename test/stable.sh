#!/usr/bin/env bash
# Runs every library scenario N times (default 5), each time with another seed
# after the first, and says how often its verdict was pass (with --control: how
# often the pair was PROVEN, for scenarios that have a control).
# Needs bin/chaosctl (make build). Over the whole library, with N >= 5, it writes
# docs/stability.md.
#
#   bash test/stable.sh N [--control] [--again] [--lanes L] [NAME...]
#
# --lanes runs so many scenarios at once (default 1), which is harder on them.
# --again repeats, up to twice, a run that was inconclusive (exit code 3): on a
# shared machine that is what an honest instrument says when it was starved. A
# wrong verdict is never repeated. It is for CI, not for measuring stability.
set -uo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5}
shift || true
control=""
tries=1
lanes=1
while :; do
	case "${1:-}" in
	--control) control="--control" ;;
	--again) tries=3 ;;
	--lanes)
		lanes=$2
		shift
		;;
	*) break ;;
	esac
	shift
done
names=("$@")
whole=""
[ ${#names[@]} -gt 0 ] || whole=yes
[ -z "$whole" ] || mapfile -t names < <(bin/chaosctl scenarios list | awk 'NR > 1 { print $1 }')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# one NAME: all its rounds; the row of the table goes to $work/NAME.row.
one() {
	local name=$1 flag="" good=0 times=() seed begin i try code median
	if [[ "$name" == *nginx* ]] && ! command -v nginx >/dev/null; then
		echo "$name: skipped: nginx is not installed (apt-get install nginx-light)"
		return 0
	fi
	if [ -n "$control" ] && bin/chaosctl scenarios show "$name" | grep -q '^control:'; then flag=$control; fi
	for ((i = 1; i <= rounds; i++)); do
		seed=()
		[ "$i" -gt 1 ] && seed=(--seed "$((1000 + i))")
		begin=$(date +%s.%N)
		for ((try = 1; try <= tries; try++)); do
			rm -rf "${work:?}/$name-$i"
			bin/chaosctl run "$name" $flag "${seed[@]}" --quiet --out "$work/$name-$i" >"$work/$name.out" 2>&1
			code=$?
			[ "$code" -eq 3 ] && [ "$try" -lt "$tries" ] || break
			echo "--- $name, round $i: inconclusive, once more"
			head -6 "$work/$name.out"
		done
		if [ "$code" -eq 0 ]; then
			good=$((good + 1))
			rm -rf "${work:?}/$name-$i"
		else
			echo "--- $name, round $i: exit code $code"
			cat "$work/$name.out"
			mkdir -p .chaosctl/unstable && rm -rf ".chaosctl/unstable/$name-$i" && mv "$work/$name-$i" ".chaosctl/unstable/" 2>/dev/null
		fi
		times+=("$(echo "$(date +%s.%N) - $begin" | bc)")
	done
	median=$(printf '%s\n' "${times[@]}" | sort -n | awk '{ a[NR] = $1 } END { printf "%.1f", a[int((NR + 1) / 2)] }')
	echo "$name${flag:+ (with control)}: $good of $rounds, $median s"
	echo "| $name | $good of $rounds | $median |" >"$work/$name.row"
	[ "$good" -eq "$rounds" ]
}

bad=0
running=0
for name in "${names[@]}"; do
	if [ "$running" -ge "$lanes" ]; then
		wait -n || bad=1
		running=$((running - 1))
	fi
	one "$name" &
	running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
	wait -n || bad=1
	running=$((running - 1))
done
if [ "$rounds" -ge 5 ] && [ -n "$whole" ]; then
	{
		echo "# Stability of the library's verdicts"
		echo
		how="bash test/stable.sh $rounds"
		[ "$lanes" -eq 1 ] || how+=" --lanes $lanes"
		echo "\`$how\` on $(date -u +%F), $(nproc) cores, $(uname -sr). The first round runs the scenario's own seed, every other one a seed of its own."
		awk -v n="$rounds" 'BEGIN { printf "%d of %d shows, at 95 %%, that a scenario gives its verdict in at least %.0f %% of runs on such a machine.\n", n, n, 100 * exp(log(0.05) / n) }'
		echo
		echo "| scenario | as it should be | seconds a run (median) |"
		echo "|---|---|---|"
		for name in "${names[@]}"; do cat "$work/$name.row" 2>/dev/null; done
	} >docs/stability.md
fi
exit "$bad"
