#!/bin/sh
# SPDX-License-Identifier: MIT
# Every C example in the documents that begins with an #include compiles without a warning. [FOLDER]
set -u
cd "${1:-$(dirname "$0")/../..}" || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
find . \( -name .git -o -name 'build*' \) -prune -o -name '*.md' -print | sort | while read -r file; do
	awk -v work="$work" -v name="$(echo "${file#./}" | tr / -)" '
		/^```c$/ { code = 1; n++; text = ""; next }
		/^```/ {
			if (code && text ~ /^#include/)
				printf "%s", text >(work "/" name "." n ".c")
			code = 0
		}
		code { text = text $0 "\n" }' "$file"
done
set -- "$work"/*.c
if [ ! -e "$1" ]; then
	echo "there are no examples: are they looked for in the right place?"
	exit 1
fi
echo "$# examples"
status=0
for source in "$@"; do
	"${CC:-cc}" -std=gnu11 -Wall -Wextra -Werror -Iinclude -fsyntax-only "$source" || status=1
done
exit $status
