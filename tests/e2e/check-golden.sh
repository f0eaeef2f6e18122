#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Restores image sets that the reference engine made, in a pid, mount and network namespace of its own: their PIDs and ports
# may be taken on this machine, and /tmp stays as it is.
#   check-golden.sh GOLDEN-FOLDER PATH/TO/ckpt [MODE...]      default modes: all
# Exit status 77: skipped, with a reason.
set -eu
[ -z "${CKPT_SHARED:-}" ] || set -- "$CKPT_SHARED/golden" "${@:2}"
golden=$(realpath -m "$1") engine=$(realpath "$2")
shift 2
modes=("$@")
[ ${#modes[@]} -gt 0 ] || modes=(memory threads signals files events tree unix tcp pty shm)
[ -x "$golden/check-restore" ] || { echo "skipped: no golden image sets in $golden"; exit 77; }
[ "$(id -u)" = 0 ] || { echo "skipped: needs root"; exit 77; }

# The images' working directory and root are folders of the machine they were made on: each that is missing here is made
# for the run, and taken away afterwards.
made=()
installed=
cleanup() {
	for ((i = ${#made[@]} - 1; i >= 0; i--)); do rmdir "${made[i]}" 2>/dev/null || true; done
	[ -z "$installed" ] || rm -rf /opt/ckpt-golden
}
trap cleanup EXIT
[ -e /opt/ckpt-golden ] || installed=1

make_folder() {
	local d=$1 missing=()
	while [ ! -e "$d" ]; do
		missing=("$d" "${missing[@]}")
		d=$(dirname "$d")
	done
	for d in "${missing[@]}"; do mkdir "$d" && made+=("$d"); done
}

folders_of() {
	python3 - "$golden/images/$1/json" <<'EOF'
import glob, json, sys
folder = sys.argv[1]
names = {f["id"]: f["reg"]["name"] for f in json.load(open(folder + "/files.json"))["entries"] if "reg" in f}
for path in glob.glob(folder + "/fs-*.json"):
    for entry in json.load(open(path))["entries"]:
        for key in ("cwd_id", "root_id"):
            name = names.get(entry[key], "/")
            if not name.startswith("/tmp/"):
                print(name)
EOF
}

for mode in "${modes[@]}"; do
	folders=$(folders_of "$mode")
	while read -r d; do [ -z "$d" ] || make_folder "$d"; done <<<"$folders"
done

# /tmp is private: the engine and the images may lie there, so they are copied first.
here=$(mktemp -d /var/tmp/check-golden.XXXXXX)
trap 'rm -rf "$here"; cleanup' EXIT
cp -r "$golden" "$here/golden"
cp "$engine" "$here/ckpt"
libs=$(dirname "$engine")
for lib in "$libs"/libckpt.so* "$libs"/../lib/libckpt.so* "$libs"/../../lib/libckpt.so*; do
	[ ! -e "$lib" ] || cp -P "$lib" "$here/"
done
ENGINE=$here/ckpt LD_LIBRARY_PATH=$here${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} unshare -fpmn --mount-proc --kill-child sh -c \
	'mount -t tmpfs -o mode=1777 tmp /tmp && mount -t devpts -o newinstance,ptmxmode=0666 none /dev/pts && ip link set lo up && cd / && exec "$@"' sh "$here/golden/check-restore" "${modes[@]}"
