#!/usr/bin/env bash
# Fails when a run left a process or a temporary folder behind.
set -euo pipefail
left=0
if pgrep -f 'chaosctl service ' >/dev/null; then
	echo "processes left behind:"; pgrep -af 'chaosctl service '; left=1
fi
for dir in "${TMPDIR:-/tmp}"/chaosctl-2*; do
	[ -e "$dir" ] && { echo "folder left behind: $dir"; left=1; }
done
[ "$left" -eq 0 ] && echo "nothing left behind"
exit "$left"
