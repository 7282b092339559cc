#!/usr/bin/env bash
# Makes .venv at the repository's root with the pinned packages. Run again, it does nothing unless the pins changed.
#   MFT_PYTHON=python3.13 scripts/setup.sh     with that interpreter (default: the first of 3.11, 3.12, 3.13)
# With uv on the PATH uv installs, else pip. Where pip's settings offer a CPU build of torch, that is taken.
set -euo pipefail
cd "$(dirname "$0")/.."

fits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
python=
for candidate in ${MFT_PYTHON:-python3.11 python3.12 python3.13 python3}; do
  if command -v "$candidate" >/dev/null && "$candidate" -c "$fits" 2>/dev/null; then python=$(command -v "$candidate"); break; fi
done
if [ -z "$python" ]; then
  echo "setup: Python 3.11, 3.12 or 3.13 is needed; tried ${MFT_PYTHON:-python3.11 python3.12 python3.13 python3}." \
    "Name one with MFT_PYTHON=/path/to/python3, or install one (apt-get install python3 python3-venv; uv python install 3.12)" >&2
  exit 2
fi

lock=requirements/cpu.txt
if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then lock=requirements/gpu.txt; fi
stamp=.venv/.installed
inputs=$(cat "$lock" scripts/setup.sh pyproject.toml | sha256sum | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null || true)" = "$inputs" ]; then exit 0; fi

echo "setup: $("$python" --version), $(grep -c == "$lock") pinned packages of $lock into .venv" \
  "(about four minutes and 3 GB; 6 to 9 GB with CUDA libraries)"
[ -x .venv/bin/python ] || "$python" -m venv .venv 2>/dev/null || { command -v uv >/dev/null && uv venv -q --python "$python" .venv; } || {
  echo "setup: $python cannot make a virtual environment: apt-get install python3-venv, or install uv" >&2; exit 2; }
if command -v uv >/dev/null; then
  install() { VIRTUAL_ENV="$PWD/.venv" uv pip install --quiet "$@"; }
else
  install() { .venv/bin/python -m pip --disable-pip-version-check -qq install "$@"; }
fi

packages=$(mktemp); trap 'rm -f "$packages"' EXIT
if [ "$lock" = requirements/gpu.txt ]; then
  cp "$lock" "$packages"
else
  torch=$(grep -o '^torch==[0-9.]*' "$lock")
  # The CPU build where the settings of pip or uv offer it; the index's own build runs on CPU too, with 3 GB of CUDA libraries.
  if install --no-deps "$torch+cpu" 2>/dev/null; then
    grep -v '^torch==\|^nvidia-\|^cuda-\|^triton==' "$lock" > "$packages"
  else
    cp "$lock" "$packages"
  fi
fi
# --no-deps: a lock is complete; nothing is installed twice. DS_BUILD_OPS=0: deepspeed compiles nothing now.
DS_BUILD_OPS=0 install --no-deps -r "$packages"
install --no-deps --no-build-isolation -e .
echo "$inputs" > "$stamp"
