#!/usr/bin/env bash
# Runs GPU tests again and again until one crashes or a sanitizer reports, to catch rare faults on the host's side.
# Usage: chase.sh [--seconds S] [--copies C] [--ranks N] [--most M] [TEST ARGUMENTS | -- PROGRAM ARGUMENTS]
#   --seconds S  how long (default 300); --copies C  runs at a time (default 2); --ranks N  as run-tests.sh (default 4)
#   --most M     ends after so many runs that were not clean (default 1)
#   -- PROGRAM   one of the bundle instead of the tests, for instance -- examples/02_all_gather --cuda --ranks 4
# Without test arguments: the tests that have died so. Logs go to chase-logs/ beside the caller, or to $OUT where that is
# set. Stacks are module and offset; `llvm-symbolizer --obj=build/<preset>/test_gpu 0xOFFSET` where it was built names them.
# Exit status: 0 where nothing was found, 1 where something was.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
seconds=300 copies=2 ranks=4 most=1
while [ $# -gt 0 ]; do
  case $1 in
    --seconds | --copies | --ranks | --most)
      [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || { echo "chase.sh: $1 takes a number above 0, not '${2:-}'" >&2; exit 2; }
      declare "${1#--}=$2"
      shift 2 ;;
    *) break ;;
  esac
done
if [ "${1:-}" = -- ]; then
  set -- "$here/${2:?chase.sh: -- takes a program of the bundle}" "${@:3}"
else
  [ $# -gt 0 ] || set -- '--gtest_filter=CudaExpertParallel.EveryTypeAndForm:CudaReduceScatterAllGather.*:CudaArena.*:CudaShmem.*'
  set -- "$here/run-tests.sh" --ranks "$ranks" "$@"
fi
logs=${OUT:-$PWD}/chase-logs
mkdir -p "$logs"

# The driver leaks by design and maps where the address sanitizer would keep a gap. It is not built with the thread
# sanitizer either.
export ASAN_OPTIONS=protect_shadow_gap=0:detect_leaks=0:abort_on_error=1:handle_segv=1:${ASAN_OPTIONS:-}
export TSAN_OPTIONS=suppressions=$here/tsan.supp:exitcode=66:history_size=4:${TSAN_OPTIONS:-}

# one COPY: runs until the time is over, each time with another way to place and check the heap.
one() {
  local copy=$1 run=0 log code way
  shift
  while [ $SECONDS -lt "$seconds" ] && [ "$(wc -l < "$logs/found")" -lt "$most" ]; do
    run=$((run + 1))
    log=$logs/$copy-$run.txt
    case $((run % 3)) in
      0) way=(MALLOC_PERTURB_=$((run % 250 + 1))) ;;
      1) way=(GLIBC_TUNABLES=glibc.malloc.tcache_count=0) ;;  # every free is checked against its neighbours
      2) way=(GLIBC_TUNABLES=glibc.malloc.arena_max=1) ;;
    esac
    [ ! -e "$here/lib/stacks.so" ] || way+=("LD_PRELOAD=$here/lib/stacks.so")
    timeout -k 5 300 env "${way[@]}" "$@" > "$log" 2>&1
    code=$?
    echo "$copy-$run: exit $code, ${way[*]}" >> "$logs/runs.txt"
    # 1: a test failed, which its own text explains; a report or a signal is what is hunted.
    if [ $code -gt 1 ] || grep -qE 'ERROR: AddressSanitizer|WARNING: ThreadSanitizer' "$log"; then
      echo "$log" >> "$logs/found"
    elif [ $code -eq 0 ]; then
      rm "$log"
    fi
  done
}
rm -f "$logs/runs.txt"
: > "$logs/found"
# The fault may be the machine's: what it was found on.
uname -srv
nvidia-smi -q 2> /dev/null | grep -E 'Driver Version|Addressing Mode' | sort -u
pids=()
for ((copy = 1; copy <= copies; ++copy)); do
  one "$copy" "$@" &
  pids+=($!)
done
wait "${pids[@]}"
echo "chase.sh: $(wc -l < "$logs/runs.txt") runs in $SECONDS s, $(grep -vc 'exit 0,' "$logs/runs.txt") not clean (logs in $logs)"
[ ! -s "$logs/found" ] || { tail -n 80 "$(head -n1 "$logs/found")"; exit 1; }
