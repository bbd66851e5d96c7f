#!/usr/bin/env bash
# make benchmark-gpu: what is there, parity on the GPU, then benchmarks.gpu, which takes the arguments.
# Whatever is missing is said, and the rest goes on; under ten minutes on an H100, downloads apart.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-.venv/bin/python}"
export XLA_PYTHON_CLIENT_PREALLOCATE="${XLA_PYTHON_CLIENT_PREALLOCATE:-false}" # torch needs some too

say() { printf '\n== %s\n' "$*"; }
find_gpu_in_jax() { "$PYTHON" -c 'import jax; print("jax", jax.__version__, jax.devices("gpu"))' 2>&1 | tail -n 1; }

say "Environment"
"$PYTHON" --version || exit 1
"$PYTHON" -c 'import torch; print("torch", torch.__version__, "cuda", torch.cuda.is_available())' ||
    echo "torch is missing: its measurements will be left out"
if nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>/dev/null; then
    if ! find_gpu_in_jax | grep -qi cuda; then
        echo "jax has no CUDA plugin yet: installing it"
        "$PYTHON" -m pip install --quiet --editable ".[cuda]" ||
            echo "that failed: the measurements of jax will be left out"
    fi
    find_gpu_in_jax
else
    echo "nvidia-smi finds no NVIDIA GPU: only --device cpu --preset tiny will work"
fi

say "Parity (those that find no GPU skip themselves)"
timeout 150 "$PYTHON" -m pytest -m gpu -q tests/parity
case $? in
0) ;;
124) echo "not done after 150 s: stopped" ;;
*) echo "parity did not pass: see above" ;;
esac

say "Benchmarks"
exec "$PYTHON" -m benchmarks.gpu "$@"
