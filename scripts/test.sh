#!/usr/bin/env bash
# The whole test suite. Extra arguments go to pytest: scripts/test.sh tests/test_rng.py -k nest
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
if [ -z "${MFT_DATA_DIR:-}" ]; then echo "MFT_DATA_DIR is not set: tests on real benchmark files are skipped"; fi
if [ $# -eq 0 ]; then
  ruff check . && ruff format --check . && mypy
fi
exec python -m pytest "$@"
