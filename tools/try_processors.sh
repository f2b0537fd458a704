#!/usr/bin/env bash
# Runs the quick tests as other processors would: with each instruction set that this processor has (of torch and of
# oneDNN), on one thread and on two. No test may depend on how a processor rounds.
#   bash tools/try_processors.sh              # all quick tests
#   bash tools/try_processors.sh tests/ctr    # arguments go to pytest
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
failed=()
for threads in 1 2; do
  for onednn in "" AVX2; do
    for torch in default avx2 avx512; do
      [[ $torch == default ]] || grep -q "${torch/avx512/avx512f}" /proc/cpuinfo || continue
      setting="ATEN_CPU_CAPABILITY=$torch ONEDNN_MAX_CPU_ISA=$onednn OMP_NUM_THREADS=$threads"
      echo "== $setting"
      env $setting "$python" -m pytest -q -m "not cli and not slow" "$@" || failed+=("$setting")
    done
  done
done
if ((${#failed[@]})); then printf 'failed: %s\n' "${failed[@]}"; exit 1; fi
echo "all passed"
