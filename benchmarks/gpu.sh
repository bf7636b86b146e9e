#!/bin/sh
# All that needs a GPU, on a machine with torch and nvcc; no network. Each below nine minutes, and needing nothing of the
# other: gpu.sh check, gpu.sh measure. More arguments: gpu.sh --help
# OUT: the folder of gpu.json (default: benchmarks/results). PYTHON: the interpreter (default: python3).
set -eu
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" -m benchmarks.gpu run --out "${OUT:-benchmarks/results}/gpu.json" "$@"
