"""One rank of two, where the other one fails: faults.py raise | late | busy."""

import sys
import threading
import time

import numpy as np

import weft

rank = weft.rank()
op = weft.AllToAll.intranode(4, 2, 1, rank, 2, 1, 8, 32, 0, deadline=0.3 if sys.argv[1] == "late" else 20.0)
x, indices = np.zeros((4, 8), np.float32), np.zeros((4, 1), np.int32)


def dispatch():
    op.dispatch(np.zeros(1, np.int32), np.zeros((1, 8, 8), np.float32), None, x, None, indices, None)


dispatch()
start = time.monotonic()
if sys.argv[1] == "raise":
    if rank == 1:
        raise KeyError("lost")
    try:
        dispatch()
    except weft.Error as fault:
        assert "rank 1 ended with KeyError: 'lost'" in str(fault), fault
    else:
        raise AssertionError("the other rank did not come, and nothing was raised")
    assert time.monotonic() - start < 5
elif sys.argv[1] == "late":
    if rank == 1:
        time.sleep(0.8)
        sys.exit(0)
    try:
        dispatch()
    except TimeoutError as fault:
        assert isinstance(fault, weft.DeadlineExceeded) and "rank 1" in str(fault), fault
    else:
        raise AssertionError("the other rank did not come, and nothing was raised")
    assert 0.25 < time.monotonic() - start < 0.75
else:  # other threads of this process go on while a call waits
    if rank == 1:
        time.sleep(0.3)
    ticks = []
    done = threading.Event()

    def tick():
        while not done.wait(0.01):
            ticks.append(time.monotonic())

    ticker = threading.Thread(target=tick)
    ticker.start()
    dispatch()
    done.set()
    ticker.join()
    assert rank == 1 or len(ticks) > 10, len(ticks)
print(f"rank {rank}: as expected", flush=True)
