#!/usr/bin/env bash
# Runs the GPU tests. Usage: run-tests.sh [--ranks N] [--processes [--ipc]] [TEST ARGUMENTS, for instance --gtest_filter=Arena.*]
# N = ranks that the tests start, one GPU each while there are enough, then sharing; default: the number of GPUs, at least 2.
# --processes: the ranks are N processes instead of threads of one. --ipc: which share memory by cudaIpc.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
ranks= processes=
while [ $# -gt 0 ]; do
  case $1 in
    --ranks)
      [[ "${2:-}" =~ ^[1-8]$ ]] || { echo "run-tests.sh: --ranks takes a number from 1 to 8, not '${2:-}'" >&2; exit 2; }
      ranks=$2
      shift 2 ;;
    --processes) processes=1; shift ;;
    --ipc) export WEFT_TEST_IPC=1; shift ;;
    *) break ;;
  esac
done
if [ -z "$processes" ]; then
  [ -z "${WEFT_TEST_IPC:-}" ] || { echo "run-tests.sh: --ipc goes with --processes" >&2; exit 2; }
  [ -z "$ranks" ] || export WEFT_TEST_RANKS=$ranks
  # Threads that share a GPU wait for each other on it, and code that is loaded meanwhile may wait until it is idle.
  gpus=$(nvidia-smi -L 2> /dev/null | wc -l)
  [ "${ranks:-2}" -le "$gpus" ] || export CUDA_MODULE_LOADING="${CUDA_MODULE_LOADING:-EAGER}"
  exec "$here/test_gpu" "$@"
fi
[ -n "$ranks" ] || { echo "run-tests.sh: --processes needs --ranks N" >&2; exit 2; }
exec "$here/weft" launch -n "$ranks" -- "$here/test_gpu" "$@"
