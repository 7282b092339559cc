#!/usr/bin/env bash
# kill -9 at 200 random moments of a training run (about 20 minutes): the run that survives must have the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
MFT_TEST_KILLS="${1:-200}" exec bash scripts/test.sh tests/train/test_train.py -k kill_at_any_moment --timeout 7200
