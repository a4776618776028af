"""Starts ranks on this host: python -m weft.launch -n 4 program.py arguments...

Each rank finds RANK, WORLD_SIZE, LOCAL_RANK and WORLD_LOCAL_SIZE in its environment. Output comes line by line behind
"[rank] ". When a rank fails the others are ended; the exit status is the first failing rank's.
"""

import argparse
import sys

from weft import _weft


def main():
    parser = argparse.ArgumentParser(prog="python -m weft.launch", description="Starts ranks on this host.")
    parser.add_argument("-n", type=int, required=True, metavar="RANKS", help="how many")
    parser.add_argument("--raw", action="store_true", help='output as it is, without "[rank] "')
    parser.add_argument("program", help="a Python file")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    return _weft.launch(given.n, [sys.executable, given.program, *given.arguments], not given.raw)


if __name__ == "__main__":
    sys.exit(main())
