#!/usr/bin/env bash
# Fails when a run that used this TMPDIR left a process or a temporary folder behind.
set -euo pipefail
left=0
tmp=${TMPDIR:-/tmp}
if pgrep -f "service [a-z]+ $tmp/chaosctl-" >/dev/null; then
	echo "processes left behind:"; pgrep -af "service [a-z]+ $tmp/chaosctl-"; left=1
fi
for dir in "$tmp"/chaosctl-2*; do
	[ -e "$dir" ] && { echo "folder left behind: $dir"; left=1; }
done
[ "$left" -eq 0 ] && echo "nothing left behind"
exit "$left"
