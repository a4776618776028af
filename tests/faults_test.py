"""Ranks that die, stop, hang or give up: the others say so within two seconds, everyone ends, nothing remains."""

import os
import pathlib
import signal
import time

import pytest
from worlds import WEFT, all_ended, marked, port, worlds  # noqa: F401, fixtures

REPORTED_WITHIN_S = 2.0
SELFTEST = (WEFT, "selftest", "world")
FOREVER = ("--seconds", 60, "--deadline", 30)


def strike(pid, number):
    os.kill(pid, number)
    return time.monotonic()


def expect_reports(programs, since, message, ranks):
    """Every one of `ranks` wrote `message` in time. `programs`: {rank: Program}, or one launcher's."""
    for rank in ranks:
        if isinstance(programs, dict):
            lines = programs[rank].err
        else:
            lines = [(when, line) for when, line in programs.err if line.startswith(f"[{rank}] ")]
        times = [when for when, line in lines if message in line]
        assert times, f"rank {rank} did not report '{message}': {lines}"
        assert times[0] - since < REPORTED_WITHIN_S, f"rank {rank} reported after {times[0] - since:.2f} s"


@pytest.mark.parametrize("exchange", ["all_reduce", "all_gather"])
@pytest.mark.parametrize("victim", [0, 2])
def test_killed_rank_under_the_launcher(worlds, victim, exchange):
    program = worlds.launch(4, *SELFTEST, *FOREVER, "--exchange", exchange)
    pids = program.rank_pids(4)
    time.sleep(0.3)
    since = strike(pids[victim], signal.SIGKILL)
    assert program.wait(5) == 137
    expect_reports(program, since, f"rank {victim} (pid {pids[victim]}) died", set(range(4)) - {victim})


@pytest.mark.parametrize("victim", [0, 2])
def test_stopped_rank_under_the_launcher(worlds, victim):
    program = worlds.launch(4, *SELFTEST, *FOREVER)
    pids = program.rank_pids(4)
    time.sleep(0.3)
    since = strike(pids[victim], signal.SIGSTOP)
    assert program.wait(5) != 0
    others = set(range(4)) - {victim}
    expect_reports(program, since, f"rank {victim} (pid {pids[victim]}) stopped responding", others)
    assert all_ended([pids[victim]])


@pytest.mark.parametrize("victim", [0, 3])
@pytest.mark.parametrize("number, what", [(signal.SIGKILL, "died"), (signal.SIGSTOP, "stopped responding")])
def test_without_a_launcher_over_tcp(worlds, port, victim, number, what):
    ranks = worlds.by_hand(4, *FOREVER, port=port)
    for program in ranks.values():
        program.rank_pids(1)
    time.sleep(0.3)
    pid = ranks[victim].pid
    since = strike(pid, number)
    others = set(range(4)) - {victim}
    for rank in others:
        assert ranks[rank].wait(5) == 1
    expect_reports(ranks, since, f"rank {victim} (pid {pid}) {what}", others)
    assert ranks[victim].wait(1) == -signal.SIGKILL  # the stopped one too


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_under_mpirun(worlds, number):
    program = worlds.start(["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "3", *SELFTEST, *FOREVER])
    pids = program.rank_pids(3)
    time.sleep(0.3)
    strike(pids[1], number)
    assert program.wait(10) != 0
    assert all_ended(pids.values())


def test_two_nodes(worlds, port):
    nodes = [
        worlds.selftest(
            *FOREVER,
            environment={
                "NODE_RANK": node,
                "WORLD_SIZE": 4,
                "WORLD_LOCAL_SIZE": 2,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
        )
        for node in range(2)
    ]
    pid = nodes[1].rank_pids(2)[3]
    nodes[0].rank_pids(2)
    since = strike(pid, signal.SIGKILL)
    assert nodes[0].wait(5) == 1
    assert nodes[1].wait(5) == 137
    expect_reports(dict(enumerate(nodes)), since, f"rank 3 (pid {pid}) died", [0, 1])


@pytest.mark.parametrize("culprit", [0, 2])
def test_a_rank_that_hangs_is_named_with_the_operator_at_the_deadline(worlds, culprit):
    program = worlds.launch(4, *SELFTEST, "--hang-rank", culprit, "--deadline", 1)
    program.rank_pids(4)
    since = time.monotonic()
    assert program.wait(10) == 1
    for rank in set(range(4)) - {culprit}:
        lines = [line for _, line in program.err if line.startswith(f"[{rank}] ")]
        assert any("all_reduce: rank " in line and f"waited 1 s for rank {culprit}: " in line for line in lines), lines
    assert time.monotonic() - since < 5


@pytest.mark.parametrize("culprit", [0, 2])
def test_a_rank_missing_from_a_gather_is_named_at_the_deadline(worlds, culprit):
    program = worlds.launch(4, *SELFTEST, "--exchange", "all_gather", "--hang-rank", culprit, "--deadline", 1)
    pids = program.rank_pids(4)
    assert program.wait(10) == 1
    for rank in set(range(4)) - {culprit}:
        lines = [line for _, line in program.err if line.startswith(f"[{rank}] ")]
        assert any("all_gather waited 1.0 s for " in line and f"(pid {pids[culprit]})" in line for line in lines), lines


def test_a_hanging_rank_ends_itself_where_nobody_else_does(worlds, port):
    ranks = worlds.by_hand(3, "--hang-rank", 1, "--deadline", 1, port=port)
    assert [ranks[rank].wait(15) for rank in range(3)] == [1, 1, 1]
    assert "rank 1 did not stop within 5.0 s after: all_reduce: rank" in ranks[1].err_text()


@pytest.mark.parametrize("number", [signal.SIGSTOP])
def test_a_stopped_rank_does_not_outlive_a_shorter_deadline(worlds, port, number):
    ranks = worlds.by_hand(3, "--seconds", 60, "--deadline", 0.4, port=port)
    for program in ranks.values():
        program.rank_pids(1)
    time.sleep(0.3)
    strike(ranks[2].pid, number)
    assert ranks[0].wait(5) == 1 and ranks[1].wait(5) == 1
    assert ranks[2].wait(3) == -signal.SIGKILL


def test_a_failure_is_told_to_all_in_its_own_words(worlds):
    program = worlds.launch(3, *SELFTEST, "--fail-rank", 1, "--seconds", 1)
    assert program.wait(5) == 1
    for rank in range(3):
        assert f"[{rank}] weft: rank 1 gave up on request" in program.err_text()


def test_a_rank_that_leaves_too_early_is_named(worlds):
    program = worlds.launch(3, *SELFTEST, "--exchange", "all_gather", "--leave-rank", 1, "--seconds", 1)
    assert program.wait(5) == 1
    assert "left the world while others wait in all_gather" in program.err_text()


def test_no_false_alarm_on_a_busy_machine(worlds):
    """Nine ranks that compute all the time, on however few cores there are."""
    program = worlds.launch(9, *SELFTEST, "--seconds", 6, "--busy", "--deadline", 60)
    assert program.wait(60) == 0, program.err_text()


def test_a_pause_of_the_whole_world_is_no_failure(worlds, port):
    """As when a machine is suspended: all stop, then all go on."""
    ranks = worlds.by_hand(3, "--seconds", 2, "--deadline", 30, port=port)
    for program in ranks.values():
        program.rank_pids(1)
    for program in ranks.values():
        program.signal(signal.SIGSTOP)
    time.sleep(3)
    for rank in (0, 2, 1):
        ranks[rank].signal(signal.SIGCONT)
    assert [ranks[rank].wait(10) for rank in range(3)] == [0, 0, 0], ranks[0].err_text()


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("number, what", [(signal.SIGKILL, "died"), (signal.SIGSTOP, "stopped responding")])
def test_a_rank_lost_while_a_model_generates(worlds, victim, number, what):
    program = worlds.launch(3, WEFT, "generate", "--model", "smollm2-135m", "--threads", 1, "--ignore-eos",
                            "--max-tokens", 6000, "--temperature", 1, "Count to a million.")
    end = time.monotonic() + 20
    while not any(line.startswith("[0] ") for _, line in program.out):  # text comes: all ranks are in the model
        assert program.process.poll() is None and time.monotonic() < end, program.err_text()
        time.sleep(0.02)
    pids = {}
    for pid in marked(worlds.mark):
        for variable in pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if variable.startswith(b"RANK="):
                pids[int(variable[5:])] = pid
    since = strike(pids[victim], number)
    assert program.wait(10) != 0
    expect_reports(program, since, f"rank {victim} (pid {pids[victim]}) {what}", set(range(3)) - {victim})
    assert all_ended(pids.values())
