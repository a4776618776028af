#!/usr/bin/env bash
# Runs the GPU benchmarks, each result checked before it is timed. Usage: run-bench.sh [--ranks N] [--json FILE]
set -euo pipefail
# torch's NCCL serves where no other is installed. NVLink multicast stays off (NCCL_NVLS_ENABLE=0) unless set otherwise.
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}
if [ -z "${WEFT_NCCL:-}" ] && ! ldconfig -p | grep -q libnccl.so.2; then
  WEFT_NCCL=$(python3 -c 'import nvidia.nccl as n; print(list(n.__path__)[0] + "/lib/libnccl.so.2")' 2>/dev/null || true)
  [ -z "$WEFT_NCCL" ] || export WEFT_NCCL
fi
here=$(cd "$(dirname "$0")" && pwd)
revision=$(cat "$here/revision")
exec "$here/weft" bench gpu --revision "$revision" "$@"
