#!/bin/sh
# SPDX-License-Identifier: MIT
# Every relative link of every .md file leads somewhere, also its #heading. Prints those that do not. [FOLDER]
set -u
cd "${1:-$(dirname "$0")/../..}" || exit 1

files() {
	find . \( -name .git -o -name 'build*' \) -prune -o -name '*.md' -print
}

# FILE: line, blank, target of each link outside of code.
links() {
	awk '
		/^ *```/ { code = !code; next }
		code { next }
		{
			gsub(/`[^`]*`/, "")
			while (match($0, /\]\([^) ]+\)/)) {
				print FNR, substr($0, RSTART + 2, RLENGTH - 3)
				$0 = substr($0, RSTART + RLENGTH)
			}
		}' "$1"
}

# FILE: the anchors of its headings, as the usual renderers make them.
anchors() {
	awk '
		/^ *```/ { code = !code; next }
		!code && /^#+ / {
			sub(/^#+ +/, "")
			$0 = tolower($0)
			gsub(/[^a-z0-9 _-]/, "")
			gsub(/ /, "-")
			print
		}' "$1"
}

bad=$(files | while read -r file; do
	links "$file" | while read -r line target; do
		case $target in
		*://* | mailto:*) continue ;;
		esac
		path=${target%%#*}
		to=$file
		[ -z "$path" ] || to=$(dirname "$file")/$path
		if [ ! -e "$to" ]; then
			echo "$file:$line: $target: there is no such file"
			continue
		fi
		case $target in
		*#*) anchors "$to" | grep -qxF -e "${target#*#}" || echo "$file:$line: $target: there is no such heading" ;;
		esac
	done
done)
[ -z "$bad" ] && exit 0
echo "$bad"
exit 1
