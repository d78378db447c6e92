#!/usr/bin/env bash
# Runs every fuzz target for a while: bash test/fuzz.sh 30s
set -euo pipefail
cd "$(dirname "$0")/.."
for each in ${1:-30s}; do
	grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do
		grep -ho '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | sed 's/func //' | sort -u | while read -r target; do
			echo "=== $dir $target"
			# An input whose coverage changes from run to run would be minimized for a minute, in which nothing is fuzzed.
			go test "$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$each" -fuzzminimizetime 20x
		done
	done
done
