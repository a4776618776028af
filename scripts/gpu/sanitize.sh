#!/usr/bin/env bash
# Runs operators of many ranks under compute-sanitizer: each rank a process, two on one GPU, few calls of each.
# Usage: sanitize.sh [--tools memcheck,racecheck] [--seconds S] [--only PATTERN]
#   --seconds S  limit of each run (default 100); --only: the cases whose name matches this regular expression
# Runs lie side by side on all GPUs. Logs go to sanitize-logs/ beside the caller, or to $OUT where that is set.
# Exit status: 0 where every run ended well and reported nothing.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tools=memcheck,racecheck seconds=100 only=.
while [ $# -gt 0 ]; do
  [ $# -gt 1 ] || { sed -n 2,6p "$0" >&2; exit 2; }
  case $1 in
    --tools) tools=$2 ;;
    --seconds) seconds=$2 ;;
    --only) only=$2 ;;
    *) sed -n 2,6p "$0" >&2; exit 2 ;;
  esac
  shift 2
done
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2> /dev/null | tail -n1)
[ -n "$sanitizer" ] || { echo "sanitize.sh: no compute-sanitizer in PATH or /usr/local/cuda/bin" >&2; exit 2; }
logs=${OUT:-$PWD}/sanitize-logs
mkdir -p "$logs"
# Processes on one GPU take turns of milliseconds, and a wait lasts at least one of them.
export WEFT_TEST_CALLS=3 WEFT_TEST_DEADLINE=300

# Name, then the program of the bundle and its arguments.
small="test_all_to_all --device cuda --deadline 300 --calls 2 --experts 10 --top-k 3 --hidden 512 --vary"
cases=$(grep -E "^[^ ]*($only)" << CASES
barrier test_gpu --gtest_filter=CudaBarrier.*
words test_gpu --gtest_filter=CudaWords.*
reduce_scatter test_gpu --gtest_filter=CudaReduceScatterAllGather.MakeAnAllReduce
all_reduce test_gpu --gtest_filter=*CudaAllReduceTest.LateRanks*:*CudaAllReduceTest.GraphsReplay*
ag_gemm test_gpu --gtest_filter=*CudaAgGemmTest.LateRanks*
gemm_rs test_gpu --gtest_filter=*CudaGemmRsTest.LateRanks*
ep_few $small --tokens 9
ep_many $small --tokens 150
ep_exact $small --tokens 9 --dtype bf16 --combine exact --split
ep_cast $small --tokens 9 --cast bf16
CASES
)

[ -n "$cases" ] || { echo "sanitize.sh: --only $only: no case has such a name" >&2; exit 2; }

# known LOG: all that racecheck names is a load and a store of a kernel, and the tests passed. A warp of the fused kernels counts in
# shared memory what has come for the others (st.release, ld.acquire), which racecheck does not take for synchronisation.
known() {
  local several
  several=$(sed -nE 's/^.*(Read|Write) access at (.+)\+(0x[0-9a-f]+).*$/\2 \1 \3/p' "$1" | sort -u | sed 's/ 0x[0-9a-f]*$//' | uniq -d)
  [ -z "$several" ] && [ "$(grep -c 'PASSED' "$1")" -eq 2 ]
}
export -f known

# one GPU TOOL NAME PROGRAM ARGUMENTS...
one() {
  local gpu=$1 tool=$2 name=$3 program=$4 log start=$SECONDS code errors
  shift 4
  log=$logs/$tool-$name.txt
  CUDA_VISIBLE_DEVICES=$gpu timeout -k 5 "$seconds" "$here/weft" launch -n 2 -- \
    "$sanitizer" --tool "$tool" --error-exitcode 99 --print-limit 20 "$here/$program" "$@" > "$log" 2>&1
  code=$?
  errors=$(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$log" | grep -vcE ' 0 (errors|hazards)')
  if [ $code -eq 99 ] && [[ $tool:$name =~ ^racecheck:(ag_gemm|gemm_rs)$ ]] && known "$log"; then
    echo "$tool $name: only the count that warps of a CTA share"
    code=0 errors=0
  fi
  echo "$tool $name: exit $code, $(grep -cE 'ERROR SUMMARY|RACECHECK SUMMARY' "$log") of 2 ranks done, $errors with findings, $((SECONDS - start)) s"
  [ $code -eq 0 ] && [ "$errors" -eq 0 ]
}
export -f one
export here sanitizer seconds logs

gpus=$(nvidia-smi -L | wc -l)
failed=$logs/failed
rm -f "$failed"
# Each GPU takes every so many-th run.
runs=$(for tool in ${tools//,/ }; do sed "s/^/$tool /" <<< "$cases"; done)
for ((gpu = 0; gpu < gpus; ++gpu)); do
  awk "NR % $gpus == $gpu" <<< "$runs" | while read -r -a run; do
    one "$gpu" "${run[@]}" < /dev/null || echo "${run[*]}" >> "$failed"
  done &
done
wait
[ ! -e "$failed" ] || { echo "sanitize.sh: see $logs"; exit 1; }
