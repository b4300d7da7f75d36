#!/bin/sh
# Make or update the virtual environment .venv. Usage: scripts/setup.sh EXTRA[,EXTRA...]
# The project is installed editable: the console script .venv/bin/darkroom then runs the clone itself, so that an edited file
# needs no reinstallation, and `python -m training` and `python -m darkroom` from the clone see the same code.
# Environment: PYTHON (an interpreter, 3.11 or 3.12), TORCH_INDEX (an extra package index for torch alone).
set -eu
cd "$(dirname "$0")/.."

CRYPTEN="crypten==0.4.1"
extras=$1

stop() {
    printf 'set-up: %s\n' "$1" >&2
    exit 1
}

# 3.13 and later are untested; an interpreter is accepted only if it runs (version managers leave shims that do not)
fits() {
    "$1" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] < (3, 13))' >/dev/null 2>&1
}

if [ -n "${PYTHON:-}" ]; then
    fits "$PYTHON" || stop "PYTHON=$PYTHON is not a working Python 3.11 or 3.12"
else
    for PYTHON in python3.11 python3.12 python3 none; do
        [ "$PYTHON" != none ] || stop "needs Python 3.11 (or 3.12); install it, or name it: make setup PYTHON=/path/to/python3.11"
        ! fits "$PYTHON" || break
    done
fi

"$PYTHON" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
    stop "this Python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv (or python3.11-venv)"

if ! { fits .venv/bin/python && .venv/bin/python -m pip --version; } >/dev/null 2>&1; then
    echo "set-up: making .venv with $("$PYTHON" --version)"
    "$PYTHON" -m venv --clear .venv
fi

pip() {
    .venv/bin/python -m pip --disable-pip-version-check "$@" ||
        stop "pip failed (see above); it needs a package index that it can reach. What is installed already is kept"
}

torch=$(sed -n 's/^torch==/torch==/p' constraints.txt)
if ! .venv/bin/python -c 'import torch' >/dev/null 2>&1; then
    if [ -n "${TORCH_INDEX:-}" ]; then
        echo "set-up: downloading $torch from $TORCH_INDEX (about 200 MB for the CPU build), then about 150 MB of other packages"
    else
        echo "set-up: downloading $torch and about 150 MB of other packages. On Linux, PyPI's torch brings 2 to 3 GB of CUDA libraries,"
        echo "set-up: which Darkroom does not use. The CPU build is about 200 MB: make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu"
    fi
    # An extra index, and for torch alone: its local version (+cpu) sorts above PyPI's, and nothing else is looked up there.
    pip install -c constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$torch"
fi

echo "set-up: installing darkroom[$extras]"
pip install --quiet -c constraints.txt -e ".[$extras]"

# Last and without dependencies: it asks for a package that no longer exists. `pip check` therefore complains, for ever.
echo "set-up: installing $CRYPTEN (3 MB)"
pip install --quiet --no-deps "$CRYPTEN"
