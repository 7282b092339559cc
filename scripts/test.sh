#!/usr/bin/env bash
# scripts/test.sh          ruff, mypy and the whole test suite, two files at a time
# scripts/test.sh --fast   without the tests that start processes, train or compile: minutes on two cores
# scripts/test.sh ...      arguments go to pytest, one process: scripts/test.sh tests/test_rng.py -k nest
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
if [ -z "${MFT_DATA_DIR:-}" ]; then echo "MFT_DATA_DIR is not set: tests on real benchmark files are skipped"; fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"  # several processes with several threads each would slow each other down
if [ "${1:-}" = --fast ] && [ $# -eq 1 ]; then
  ruff check . && ruff format --check .
  exec python -m pytest -n 2 --dist loadfile -m "not slow"
elif [ $# -eq 0 ]; then
  ruff check . && ruff format --check . && mypy
  exec python -m pytest -n 2 --dist loadfile --durations=40
fi
exec python -m pytest "$@"
