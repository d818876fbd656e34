#!/bin/sh
# Makes .venv or brings it up to date: `scripts/setup.sh dev` for the tests, `scripts/setup.sh all` for the demo.
set -eu
cd "$(dirname "$0")/.."
extra=$1
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Python 3.11 or newer is needed; $python is older or missing. Name another: make PYTHON=python3.12 ..." >&2
    exit 1
fi
[ -x .venv/bin/pip ] || "$python" -m venv .venv
# torch first, by itself: the largest download by far, and the build that is settled here, CPU or CUDA, is kept
# by the next line. Plain PyPI serves CUDA on Linux; PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu, CPU.
.venv/bin/python -m pip install -c constraints.txt torch
.venv/bin/python -m pip install -c constraints.txt -e ".[$extra]"
touch ".venv/$extra.stamp"
[ "$extra" != dev ] || touch .venv/all.stamp # dev contains all
