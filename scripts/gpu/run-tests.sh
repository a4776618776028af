#!/usr/bin/env bash
# Runs the GPU tests. Usage: run-tests.sh [--ranks N] [TEST ARGUMENTS, for instance --gtest_filter=Arena.*]
# N = ranks that the tests start, one GPU each while there are enough, then sharing; default: the number of GPUs, at least 2.
set -euo pipefail
# One hardware queue per stream, also where ranks share a GPU: a kernel that waits must not stand before what it waits for.
export CUDA_DEVICE_MAX_CONNECTIONS=${CUDA_DEVICE_MAX_CONNECTIONS:-32}
here=$(cd "$(dirname "$0")" && pwd)
if [ "${1:-}" = --ranks ]; then
  [[ "${2:-}" =~ ^[1-8]$ ]] || { echo "run-tests.sh: --ranks takes a number from 1 to 8, not '${2:-}'" >&2; exit 2; }
  export WEFT_TEST_RANKS=$2
  shift 2
fi
exec "$here/test_gpu" "$@"
