#!/bin/bash
# SPDX-License-Identifier: MIT
# Every relative link in every .md file leads to something, and every #anchor to a heading. check-links.sh [SOURCE]
set -u
cd "${1:-$(dirname "$0")/../..}" || exit 1
bad=0

# Anchors of a file, made from its headings as the usual renderers do.
anchors() {
	sed -e '/^```/,/^```/d' "$1" | sed -n 's/^#\{1,6\} *//p' | tr '[:upper:]' '[:lower:]' |
		sed -e 's/[^a-z0-9 _-]//g' -e 's/ /-/g'
}

check() { # FILE LINK
	local target=${2%%#*} anchor=
	[[ $2 == *#* ]] && anchor=${2#*#}
	local path=$1
	[ -n "$target" ] && path=$(dirname "$1")/$target
	if [ ! -e "$path" ]; then
		echo "$1: $2: there is no $path"
		bad=1
	elif [ -n "$anchor" ] && ! anchors "$path" | grep -qxF -- "$anchor"; then
		echo "$1: $2: $path has no heading for #$anchor"
		bad=1
	fi
}

n=0
while IFS= read -r file; do
	while IFS= read -r link; do
		[ -z "$link" ] && continue
		n=$((n + 1))
		check "$file" "$link"
	done < <(sed -e '/^```/,/^```/d' -e 's/`[^`]*`//g' "$file" | grep -o '](<\?[^) ]*' | sed 's/^](<\?//; s/>$//' |
		grep -v '^[a-z][a-z+.-]*:' || true)
done < <(find . \( -name .git -o -name 'build*' -type d \) -prune -o -name '*.md' -print | sort)
echo "$n links"
[ "$n" -gt 0 ] || { echo "no link found: this check is broken"; bad=1; }
exit $bad
