#!/usr/bin/env bash
# make benchmark-gpu: the environment, parity on the GPU, then benchmarks.gpu with the arguments given.
# A part that cannot run says why, and the others run; under ten minutes on an H100 without downloads.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-.venv/bin/python}"
export XLA_PYTHON_CLIENT_PREALLOCATE="${XLA_PYTHON_CLIENT_PREALLOCATE:-false}" # torch needs some too

say() { printf '\n== %s\n' "$*"; }
find_gpu_in_jax() { "$PYTHON" -c 'import jax; print("jax", jax.__version__, jax.devices("gpu"))' 2>&1 | tail -n 1; }

say "Environment"
"$PYTHON" --version || exit 1
"$PYTHON" -c 'import torch; print("torch", torch.__version__, "cuda", torch.cuda.is_available())' ||
    echo "torch is not installed: skipping its measurements"
if nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>/dev/null; then
    if ! find_gpu_in_jax | grep -qi cuda; then
        echo "jax has no CUDA plugin: installing it"
        "$PYTHON" -m pip install --quiet --editable ".[cuda]" ||
            echo "installation failed: skipping the measurements of jax"
    fi
    find_gpu_in_jax
else
    echo "nvidia-smi finds no NVIDIA GPU: only --device cpu --preset tiny works"
fi

say "Parity (tests are skipped without a GPU)"
timeout 150 "$PYTHON" -m pytest -m gpu -q tests/parity
case $? in
0) ;;
124) echo "stopped after 150 s" ;;
*) echo "parity failed: see above" ;;
esac

say "Benchmarks"
exec "$PYTHON" -m benchmarks.gpu "$@"
