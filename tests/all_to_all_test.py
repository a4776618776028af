"""test_all_to_all and bench_all_to_all: expert parallelism between processes, started in every way, and faults."""

import json
import os
import pathlib
import signal
import time

import pytest
from worlds import WEFT, port, worlds  # noqa: F401, fixtures

TEST = pathlib.Path(WEFT).with_name("test_all_to_all")
BENCH = TEST.with_name("bench_all_to_all")
FORMS = [
    (),
    ("--dtype", "bf16", "--combine", "exact", "--split", "--vary"),
    ("--dtype", "f32", "--out-dtype", "f32", "--map", "--bound", "--vary"),
    ("--experts", 10, "--top-k", 3, "--capacity", 20, "--routing", "one_hot"),
]


def passed(program, ranks):
    assert program.wait(120) == 0, program.err_text()
    assert f"{ranks} ranks" in program.out_text() and "passed" in program.out_text()
    return program.out_text()


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
def test_ranks_that_are_processes(worlds, ranks):
    for form in FORMS if ranks in (3, 4) else FORMS[:2]:
        out = passed(worlds.launch(ranks, TEST, "--tokens", 20, "--calls", 10, *form), ranks)
        assert (" 0 pairs" in out) == ("--capacity" not in form)


def test_dp_groups(worlds):
    for size in (2, 4):
        passed(worlds.launch(4, TEST, "--dp-size", size, "--calls", 10, "--vary"), 4)


def test_threads_outside_a_world(worlds):
    passed(worlds.start([TEST, "--ranks", 3, "--calls", 5]), 3)


def test_mpirun(worlds):
    program = worlds.start(["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "4", TEST, "--json"])
    assert program.wait(120) == 0, program.err_text()
    assert json.loads(program.out_text()) == {"test": "all_to_all", "device": "cpu", "ranks": 4, "calls": 20,
                                              "dropped": 0, "passed": True}


@pytest.mark.parametrize("local", [1, 2, 4])
def test_one_command_per_node(worlds, port, local):
    world = {"WORLD_SIZE": 4, "WORLD_LOCAL_SIZE": local, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    nodes = [worlds.start([TEST, "--calls", 5], world | {"NODE_RANK": node}) for node in range(4 // local)]
    for program in nodes:
        assert program.wait(120) == 0, program.err_text()
    assert "4 ranks, 5 calls: passed" in "\n".join(program.out_text() for program in nodes)


def test_a_killed_rank_is_named_by_the_others(worlds):
    program = worlds.launch(3, TEST, "--calls", 10**9, "--verbose", "--tokens", 8)
    pids = program.rank_pids(3)
    time.sleep(0.2)
    start = time.monotonic()
    os.kill(pids[1], signal.SIGKILL)
    assert program.wait(20) != 0
    assert time.monotonic() - start < 5
    assert f"rank 1 (pid {pids[1]}) died" in program.err_text(), program.err_text()


def test_a_hanging_rank_is_named(worlds):
    program = worlds.launch(2, TEST, "--calls", 10**9, "--verbose", "--tokens", 8)
    pids = program.rank_pids(2)
    os.kill(pids[1], signal.SIGSTOP)
    assert program.wait(20) != 0
    assert "rank 1" in program.err_text(), program.err_text()


def test_benchmark(worlds):
    small = ("--tokens", 16, "--hidden", 64, "--samples", 2, "--repeats", 3, "--json")
    program = worlds.start([WEFT, "launch", "-n", 2, "--raw", "--", BENCH, *small])
    assert program.wait(120) == 0, program.err_text()
    report = json.loads(program.out_text())
    assert report["ranks"] == 2 and report["tokens"] == 16 and report["combine_mode"] == "pre_reduced"
    for name in ("dispatch", "combine", "pair"):
        assert 0 < report[name]["us"]["min"] <= report[name]["us"]["median"] <= report[name]["us"]["max"]
        assert report[name]["bytes_sent_per_rank"] > 0
    table = worlds.start([BENCH, "--ranks", 2, "--tokens", 4, "--samples", 1, "--repeats", 1])
    assert table.wait(120) == 0 and "GB/s" in table.out_text(), table.err_text()


def test_wrong_flags(worlds):
    for flags, named in ((("--dtype", "q4"), "--dtype"), (("--top-k", 33), "--top-k"), (("--nothing",), "--nothing")):
        program = worlds.start([TEST, *flags])
        assert program.wait() == 2 and named in program.err_text()
    program = worlds.start([TEST, "--experts", 4, "--top-k", 8])
    assert program.wait() == 1 and "experts_per_token: expected 1 to 4, found 8" in program.err_text()
    program = worlds.start([TEST, "--ranks", 3, "--dp-size", 2])
    assert program.wait() == 1 and "dp_size: expected a divisor of world_size 3, found 2" in program.err_text()


def test_device_cuda_takes_the_same_flags(worlds):
    gpu = pathlib.Path("/dev/nvidia0").exists()
    for program, sizes in ((TEST, ("--calls", 3)), (BENCH, ("--samples", 1, "--repeats", 2))):
        for form in FORMS if program == TEST else ((),):
            started = worlds.launch(2, program, "--device", "cuda", "--tokens", 20, *sizes, *form)
            status = started.wait(120)
            assert status == 0 if gpu else status == 1, started.err_text()
            if not gpu:
                assert "no GPU is visible" in started.err_text() or "no CUDA" in started.err_text()
    assert worlds.start([TEST, "--device", "tpu"]).wait(60) == 2
