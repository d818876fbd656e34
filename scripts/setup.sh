#!/bin/sh
# Makes .venv or brings it up to date: `scripts/setup.sh dev` for the tests, `scripts/setup.sh all` for the demo.
set -eu
cd "$(dirname "$0")/.."
extra=$1
case $extra in
all | dev) ;;
*) echo "There is no extra $extra: all or dev." >&2 && exit 2 ;;
esac
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Python 3.11 or newer is needed; $python is older or missing. Name another: make PYTHON=python3.12 ..." >&2
    exit 1
fi
if ! [ -x .venv/bin/pip ]; then
    # Debian has what venv needs in a package of each version's own.
    "$python" -c 'import ensurepip' 2>/dev/null ||
        sh scripts/system.sh "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    "$python" -m venv .venv
fi
# torch first, by itself: the largest download by far, and the build that is settled here, CPU or CUDA, is kept
# by the next line. Plain PyPI serves CUDA on Linux; PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu, CPU.
.venv/bin/python -m pip install -c constraints.txt torch
.venv/bin/python -m pip install -c constraints.txt -e ".[$extra]"
touch ".venv/$extra.stamp"
[ "$extra" != dev ] || touch .venv/all.stamp # dev contains all
