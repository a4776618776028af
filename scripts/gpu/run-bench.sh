#!/usr/bin/env bash
# Runs the GPU benchmarks, each result checked before it is timed. Usage: run-bench.sh [--ranks N] [--json FILE]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
revision=$(cat "$here/revision")
exec "$here/weft" bench gpu --revision "$revision" "$@"
