#!/usr/bin/env bash
# Runs the GPU benchmarks, each result checked before it is timed. Usage: run-bench.sh [--ranks N [--processes]] [--json FILE]
set -euo pipefail
# torch's NCCL and cuBLAS serve where no others are installed. NVLink multicast stays off unless NCCL_NVLS_ENABLE says so.
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}
# library <name> <glob under python's nvidia packages>: the path of a library that ldconfig does not know.
library() {
  ldconfig -p | grep -q "$1" ||
    python3 -c 'import glob, nvidia, sys; print(sorted(glob.glob(list(nvidia.__path__)[0] + sys.argv[1]))[-1])' "$2" 2>/dev/null
}
nccl=$(library libnccl.so.2 '/nccl/lib/libnccl.so.2') && [ -n "$nccl" ] && export WEFT_NCCL=${WEFT_NCCL:-$nccl}
cublas=$(library libcublas.so.13 '/*/lib/libcublas.so.1[23]') && [ -n "$cublas" ] && export WEFT_CUBLAS=${WEFT_CUBLAS:-$cublas}
here=$(cd "$(dirname "$0")" && pwd)
revision=$(cat "$here/revision")
exec "$here/weft" bench gpu --revision "$revision" "$@"
