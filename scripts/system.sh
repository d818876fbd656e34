#!/bin/sh
# Installs the Debian packages that are named, by default what a virtual screen and Qt need, where there is apt-get and
# one is missing.
set -eu

command -v apt-get >/dev/null || exit 0

# libglib2.0-bin stands for libglib2.0-0, which Qt loads and whose name differs from release to release.
[ $# -gt 0 ] || set -- xvfb xauth libgl1 libegl1 libglib2.0-bin libdbus-1-3 libfontconfig1 libxkbcommon-x11-0 \
    libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0 \
    libxcb-shape0 libxcb-xinerama0
missing=""
for package in "$@"; do
    dpkg -s "$package" 2>/dev/null | grep -q '^Status: install ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

as_root=""
[ "$(id -u)" -eq 0 ] || as_root=sudo
# shellcheck disable=SC2086 # an empty word goes away, and the list is one
$as_root apt-get update && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y $missing ||
    echo "Going on without these; if something fails for want of them: apt-get install$missing" >&2
