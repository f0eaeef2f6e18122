#!/bin/bash
# SPDX-License-Identifier: MIT
# Every C example in README.md and docs/guide compiles without a warning; those that have a main() link, too.
# check-examples.sh SOURCE BUILD
set -eu
source=$1 build=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
n=0
for file in "$source"/README.md "$source"/docs/guide/*.md; do
	awk -v base="$work/$(basename "$file" .md)" '
		/^```c$/ { inside = 1; out = base "-" ++i ".c"; next }
		/^```/ { inside = 0; next }
		inside { print > out }' "$file"
done
for c in "$work"/*.c; do
	[ -e "$c" ] || break
	n=$((n + 1))
	echo "$(basename "$c")"
	${CC:-cc} -std=gnu11 -Wall -Wextra -Werror -I"$source/include" -c "$c" -o "${c%.c}.o"
	grep -q 'int main(' "$c" || continue
	so=$(find "$build" -name libckpt.so -print -quit)
	[ -z "$so" ] || ${CC:-cc} "${c%.c}.o" -o "${c%.c}" "$so" -Wl,-rpath,"$(dirname "$so")"
done
echo "$n examples"
[ "$n" -gt 0 ]
