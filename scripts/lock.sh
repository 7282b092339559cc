#!/usr/bin/env bash
# Resolves requirements/cpu.txt and gpu.txt again, each universal for Python 3.11 to 3.13. Needs uv (pip install uv).
#   scripts/lock.sh            the pins as they are, with what pyproject.toml and *.in now ask for
#   scripts/lock.sh --upgrade  the newest versions that fit
set -euo pipefail
cd "$(dirname "$0")/.."
extras=()
for extra in watch sweep api ifeval quant slurm dev; do extras+=(--extra "$extra"); done
lock() {  # lock NAME EXTRA...: requirements/NAME.in and -overrides.txt become requirements/NAME.txt
  local name=$1; shift
  uv pip compile --quiet --universal --python-version 3.11 --no-annotate --custom-compile-command scripts/lock.sh \
    pyproject.toml "${extras[@]}" "$@" "requirements/$name.in" --override "requirements/$name-overrides.txt" \
    --output-file "requirements/$name.txt"
  sed -i "/sys_platform == 'never'/d" "requirements/$name.txt"  # what only an overridden package would have brought
}
lock cpu "$@"
lock gpu --extra vllm "$@"
