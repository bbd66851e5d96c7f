#!/usr/bin/env bash
# make benchmark-gpu: install what is missing, then run benchmarks.gpu with the arguments given.
# PYTHON is the interpreter, by default .venv's if there is one, else python3. If it belongs to no virtual
# environment, .venv-gpu is created from it, which sees all of its packages: the machine's own torch and jax.
set -u
cd "$(dirname "$0")/.." || exit 1

fail() {
    echo "error: $*" >&2
    exit 1
}

[ -x .venv/bin/python ] && default=.venv/bin/python || default=python3
PYTHON="${PYTHON:-$default}"
command -v "$PYTHON" >/dev/null || fail "PYTHON: expected an interpreter, got $PYTHON"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "expected Python 3.11 or later, got $("$PYTHON" --version): try PYTHON=python3.11"
if "$PYTHON" -c 'import sys; sys.exit(sys.prefix != sys.base_prefix)'; then
    # Without pip: Debian's Python cannot install it, but sees the system's.
    [ -x .venv-gpu/bin/python ] || "$PYTHON" -m venv --system-site-packages --without-pip .venv-gpu ||
        fail "$PYTHON cannot create .venv-gpu; PYTHON=PATH takes another interpreter"
    PYTHON=.venv-gpu/bin/python
    "$PYTHON" -m pip --version >/dev/null 2>&1 || "$PYTHON" -m ensurepip >/dev/null 2>&1 ||
        fail "$PYTHON has no pip; PYTHON=PATH takes another interpreter"
fi
"$PYTHON" benchmarks/gpu_packages.py || exit 1
exec "$PYTHON" -m benchmarks.gpu "$@"
