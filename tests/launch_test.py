"""`weft launch` and the other ways to start a world: mpirun, srun, torchrun, one command per node."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from worlds import WEFT, all_ended, port, worlds  # noqa: F401, fixtures

SELFTEST = (WEFT, "selftest", "world")


def one_line(program):
    lines = [line for _, line in program.err]
    assert len(lines) == 1, lines
    return lines[0]


# --- weft launch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_launch_makes_a_world(worlds, size):
    program = worlds.launch(size, "weft", "selftest", "world", "--seconds", 0.2)
    assert program.wait() == 0, program.err_text()
    assert len(program.rank_pids(size)) == size
    for rank in range(size):
        assert f"[{rank}] rank {rank} of {size}: pid" in program.out_text()
    assert program.err_text() == ""


def test_every_rank_gets_its_variables(worlds):
    script = "echo $RANK $LOCAL_RANK $WORLD_SIZE $WORLD_LOCAL_SIZE ${MASTER_ADDR-none}"
    program = worlds.launch(3, "sh", "-c", script, environment={"MASTER_ADDR": "outer", "NODE_RANK": "7"})
    assert program.wait() == 0
    assert sorted(program.out_text().splitlines()) == [f"[{r}] {r} {r} 3 3 none" for r in range(3)]


def test_streams_stay_apart_and_lines_whole(worlds):
    script = "printf 'to stdout\\npart'; printf 'to stderr\\n' >&2; sleep 0.2; printf 'ial'"
    program = worlds.launch(2, "sh", "-c", script)
    assert program.wait() == 0
    assert sorted(program.out_text().splitlines()) == ["[0] partial", "[0] to stdout", "[1] partial", "[1] to stdout"]
    assert sorted(program.err_text().splitlines()) == ["[0] to stderr", "[1] to stderr"]


def test_long_and_binary_lines(worlds):
    code = "import sys; sys.stdout.buffer.write((b'x' * 500000 + b'\\0\\xff\\n') * 4)"
    result = subprocess.run(
        [WEFT, "launch", "-n", "3", "--", sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60, check=True
    )
    lines = result.stdout.split(b"\n")
    assert sorted(lines) == sorted([b"[%d] " % r + b"x" * 500000 + b"\0\xff" for r in range(3)] * 4 + [b""])


def test_a_slow_reader_loses_nothing(worlds):
    code = "for i in range(200000): print('line', i)"
    with subprocess.Popen(
        [WEFT, "launch", "-n", "2", "--", sys.executable, "-c", code], stdout=subprocess.PIPE
    ) as process:
        time.sleep(1)
        lines = process.stdout.read().decode().splitlines()
    assert process.returncode == 0
    for rank in range(2):
        assert [line for line in lines if line.startswith(f"[{rank}]")] == [
            f"[{rank}] line {i}" for i in range(200000)
        ]


def test_a_reader_that_leaves_ends_the_ranks(worlds):
    program = worlds.start(["sh", "-c", f"{WEFT} launch -n 2 -- yes | head -n 3; echo done"])
    assert program.wait(10) == 0
    assert program.out_text().splitlines()[-1] == "done"


def test_raw_output_has_no_prefix(worlds):
    program = worlds.start([WEFT, "launch", "-n", "2", "--raw", "--", "echo", "plain"])
    assert program.wait() == 0
    assert program.out_text() == "plain\nplain"


def test_rank_0_reads_the_input(worlds):
    program = worlds.launch(2, "sh", "-c", "echo got $(cat)", stdin=subprocess.PIPE)
    program.process.stdin.write(b"hello")
    program.process.stdin.close()
    assert program.wait() == 0
    assert sorted(program.out_text().splitlines()) == ["[0] got hello", "[1] got"]


@pytest.mark.parametrize("end, status", [("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)])
def test_one_failing_rank_ends_all(worlds, end, status):
    start = time.monotonic()
    program = worlds.launch(4, "sh", "-c", f'if [ $RANK = 2 ]; then {end}; fi; sleep 100')
    assert program.wait() == status
    assert time.monotonic() - start < 3
    assert "weft: rank 2 (pid " in one_line(program)


def test_a_killed_rank_counts_before_those_that_exit_because_of_it(worlds):
    program = worlds.launch(3, "sh", "-c", "if [ $RANK = 2 ]; then sleep 0.2; kill -9 $$; fi; sleep 0.1; exit 5")
    assert program.wait() == 137
    assert "rank 2 (pid " in one_line(program)


def test_a_rank_that_ignores_sigterm_is_killed(worlds):
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready', flush=True)\n"
        "time.sleep(0.3 if os.environ['RANK'] == '1' else 100)\n"
        "exit(3)"
    )
    start = time.monotonic()
    program = worlds.launch(3, sys.executable, "-c", code)
    assert program.wait() == 3
    assert 1.5 < time.monotonic() - start < 6
    assert program.out_text().count("ready") == 3


def test_a_stopped_rank_is_killed_when_another_fails(worlds):
    program = worlds.launch(2, "sh", "-c", "if [ $RANK = 0 ]; then kill -STOP $$; fi; sleep 0.3; exit 4")
    assert program.wait() == 4


def test_what_ranks_leave_behind_is_killed(worlds):
    program = worlds.launch(2, "sh", "-c", "sleep 1000 & exit 0")
    assert program.wait() == 0


def test_interrupt_reaches_every_rank_once(worlds):
    code = (
        "import signal, time\n"
        "signal.signal(signal.SIGINT, lambda *_: print('interrupted', flush=True))\n"
        "print('ready', flush=True)\n"
        "end = time.monotonic() + 1.5\n"
        "while time.monotonic() < end: time.sleep(0.1)\n"
    )
    program = worlds.launch(2, sys.executable, "-c", code)
    while program.out_text().count("ready") < 2:
        time.sleep(0.01)
    program.signal(signal.SIGINT)
    assert program.wait() == 0
    assert program.out_text().count("interrupted") == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all(worlds, number):
    program = worlds.launch(3, *SELFTEST, "--seconds", 60)
    program.rank_pids(3)
    program.signal(number)
    assert program.wait(5) == 128 + number


def test_the_second_sigterm_kills(worlds):
    program = worlds.launch(2, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    while program.out_text().count("ready") < 2:
        time.sleep(0.01)
    program.signal(signal.SIGTERM)
    time.sleep(0.5)
    assert program.process.poll() is None
    program.signal(signal.SIGTERM)
    assert program.wait(5) == 137


def test_no_rank_survives_the_launcher(worlds):
    program = worlds.launch(4, *SELFTEST, "--seconds", 60)
    pids = program.rank_pids(4)
    program.signal(signal.SIGKILL)
    assert program.process.wait(5) == -signal.SIGKILL
    assert worlds.remaining(1.0) == []
    assert all_ended(pids.values())


def test_a_missing_command_is_named(worlds):
    program = worlds.launch(2, "/no/such/program")
    assert program.wait() == 1
    assert one_line(program) == "weft: /no/such/program: No such file or directory"


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["-n", "0", "--", "true"], "ranks"),
        (["-n", "two", "--", "true"], "ranks"),
        (["-n", "2"], "command"),
        (["--", "true"], "ranks"),
        (["-n", "2", "--fast", "--", "true"], "--fast"),
    ],
)
def test_wrong_flags(worlds, arguments, named):
    program = worlds.start([WEFT, "launch", *arguments])
    assert program.wait() != 0
    assert named in program.err_text()


# --- other launchers -----------------------------------------------------------------------------------------------


def test_mpirun(worlds):
    program = worlds.start(["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "4", *SELFTEST])
    assert program.wait() == 0, program.err_text()
    assert set(program.rank_pids(4)) == {0, 1, 2, 3}


def test_two_mpiruns_at_once_are_two_worlds(worlds):
    command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2", *SELFTEST]
    for program in [worlds.start(command), worlds.start(command)]:
        assert program.wait() == 0, program.err_text()


def test_launch_inside_mpirun(worlds):
    command = ["mpirun", "--allow-run-as-root", "-np", "1", WEFT, "launch", "-n", "3", "--", *SELFTEST]
    program = worlds.start(command)
    assert program.wait() == 0, program.err_text()
    assert len(program.rank_pids(3)) == 3


def test_slurm_variables(worlds):
    ranks = [
        worlds.selftest(
            environment={
                "SLURM_PROCID": rank,
                "SLURM_NTASKS": 3,
                "SLURM_LOCALID": rank,
                "SLURM_JOB_ID": os.getpid(),
                "SLURM_STEP_ID": 0,
                "SLURM_NNODES": 1,
            }
        )
        for rank in range(3)
    ]
    for program in ranks:
        assert program.wait() == 0, program.err_text()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_torchrun_variables(worlds, port, host):
    ranks = [
        worlds.selftest(
            environment={
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": 4,
                "LOCAL_WORLD_SIZE": 4,
                "MASTER_ADDR": host,
                "MASTER_PORT": port,
            }
        )
        for rank in (3, 1, 2, 0)  # rank 0 comes last
    ]
    for program in ranks:
        assert program.wait() == 0, program.err_text()


def test_one_command_per_node(worlds, port):
    nodes = [
        worlds.selftest(
            environment={
                "NODE_RANK": node,
                "WORLD_SIZE": 4,
                "WORLD_LOCAL_SIZE": 2,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
        )
        for node in range(2)
    ]
    for program in nodes:
        assert program.wait() == 0, program.err_text()
    assert set(nodes[0].rank_pids(2)) == {0, 1}
    assert set(nodes[1].rank_pids(2)) == {2, 3}


def test_one_node_needs_no_address(worlds):
    program = worlds.selftest(environment={"NODE_RANK": 0, "WORLD_SIZE": 3, "WORLD_LOCAL_SIZE": 3})
    assert program.wait() == 0, program.err_text()
    assert len(program.rank_pids(3)) == 3


# --- start-up that cannot succeed ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variables, message",
    [
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK='x': expected a number from 0 to 4095"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 is not below WORLD_SIZE=2"),
        ({"RANK": "0"}, "RANK is set but WORLD_SIZE is not"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "70000"}, "MASTER_PORT='70000'"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "no.such.host.invalid", "MASTER_PORT": "7"}, "no.such.host"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "203.0.113.1", "MASTER_PORT": "7777"}, "203.0.113.1:7777"),
        ({"NODE_RANK": "0", "WORLD_SIZE": "3", "WORLD_LOCAL_SIZE": "2"}, "WORLD_SIZE=3 is not a multiple"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, "set MASTER_ADDR and MASTER_PORT"),
    ],
)
def test_malformed_variables(worlds, variables, message):
    program = worlds.selftest(environment=variables)
    assert program.wait(10) == 1
    assert message in one_line(program)


def test_port_in_use(worlds, port):
    with socket.create_server(("127.0.0.1", port)):
        program = worlds.by_hand(2, port=port, ranks=[0])[0]
        assert program.wait(5) == 1
    assert one_line(program) == f"weft: rank 0 cannot listen at 127.0.0.1:{port}: Address already in use"


def test_missing_ranks_are_named_by_all(worlds, port):
    ranks = worlds.by_hand(5, "--start-deadline", 1, port=port, ranks=[0, 1, 3])
    for program in ranks.values():
        assert program.wait(5) == 1
        assert f"at 127.0.0.1:{port} for ranks 2, 4" in one_line(program)


def test_missing_rank_0(worlds, port):
    program = worlds.by_hand(2, "--start-deadline", 1, port=port, ranks=[1])[1]
    assert program.wait(5) == 1
    assert "for rank 0" in one_line(program) and f"127.0.0.1:{port}" in one_line(program)


def test_world_sizes_that_differ(worlds, port):
    ranks = [worlds.by_hand(3, port=port, ranks=[0])[0], worlds.by_hand(4, port=port, ranks=[1])[1]]
    for program in ranks:
        assert program.wait(5) == 1
        assert "has world size 4, rank 0 has 3" in program.err[-1][1]


def test_the_same_rank_twice(worlds, port):
    programs = [worlds.by_hand(3, port=port, ranks=[rank])[rank] for rank in (0, 2, 2)]  # rank 1 never comes
    for program in programs:
        assert program.wait(10) == 1
        assert "two processes are rank 2" in program.err_text()


def test_strangers_at_the_port_do_no_harm(worlds, port):
    ranks = worlds.by_hand(3, port=port, ranks=[0, 1])
    strangers = []
    for garbage in [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100000, b"", b"\x01\0\0\0", os.urandom(4000)]:
        stranger = None
        while stranger is None:
            try:
                stranger = socket.create_connection(("127.0.0.1", port))
            except ConnectionRefusedError:
                time.sleep(0.01)
        stranger.sendall(garbage)
        strangers.append(stranger)
    ranks.update(worlds.by_hand(3, port=port, ranks=[2]))
    for program in ranks.values():
        assert program.wait(10) == 0, program.err_text()
    for stranger in strangers:
        stranger.close()


def test_a_rank_that_dies_before_all_have_come(worlds, port):
    ranks = worlds.by_hand(3, port=port, ranks=[0, 1])
    time.sleep(0.5)
    pid = ranks[1].pid
    ranks[1].signal(signal.SIGKILL)
    assert ranks[0].wait(5) == 1
    assert f"rank 1 (pid {pid}) died before the world was complete" in one_line(ranks[0])


def test_rank_0_dies_before_all_have_come(worlds, port):
    ranks = worlds.by_hand(3, port=port, ranks=[0, 1])
    time.sleep(0.5)
    ranks[0].signal(signal.SIGKILL)
    assert ranks[1].wait(5) == 1
    assert "rank 0" in one_line(ranks[1]) and "ended before the world was complete" in one_line(ranks[1])
