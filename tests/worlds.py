"""Helpers to start worlds of ranks and to see that nothing of them remains."""

import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time
import uuid

import pytest

from weft import WEFT, clean_environment

MARK = "WEFT_TEST_MARK"


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def all_ended(pids, wait=1.0):
    """Whether all of them end in time: a process that has freed its memory is still on its way out for a moment."""
    end = time.monotonic() + wait
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def marked(mark):
    """Living processes whose environment carries the mark."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0") and is_alive(folder.name):
                found.append(int(folder.name))
    return found


def weft_files():
    return {path for folder in ("/dev/shm", "/tmp") for path in pathlib.Path(folder).glob("*weft*")}


class Program:
    """A running program. Its lines are collected with the time at which they came."""

    def __init__(self, arguments, environment, **options):
        options.setdefault("stdin", subprocess.DEVNULL)
        self.process = subprocess.Popen(
            [str(argument) for argument in arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
        self.pid = self.process.pid
        self.out, self.err = [], []
        self.readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for reader in self.readers:
            reader.start()

    @staticmethod
    def _read(stream, lines):
        for line in stream:
            lines.append((time.monotonic(), line.decode(errors="replace").rstrip("\n")))

    def out_text(self):
        return "\n".join(line for _, line in self.out)

    def err_text(self):
        return "\n".join(line for _, line in self.err)

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, timeout=30):
        """The exit status; a negative signal number when one ended it."""
        status = self.process.wait(timeout)
        for reader in self.readers:
            reader.join(timeout)
        return status

    def rank_pids(self, count, timeout=30):
        """{rank: pid} once `count` ranks have joined."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            found = re.findall(r"rank (\d+) of \d+: pid (\d+) joined", self.out_text())
            if len(found) == count:
                return {int(rank): int(pid) for rank, pid in found}
            assert self.process.poll() is None, self.err_text()
            time.sleep(0.01)
        raise AssertionError(f"{count} ranks did not join:\n{self.out_text()}\n{self.err_text()}")


class Worlds:
    def __init__(self):
        self.mark = uuid.uuid4().hex
        self.programs = []

    def start(self, arguments, environment=None, **options):
        program = Program(arguments, clean_environment(**{MARK: self.mark}, **(environment or {})), **options)
        self.programs.append(program)
        return program

    def launch(self, ranks, *command, environment=None, **options):
        return self.start([WEFT, "launch", "-n", ranks, "--", *command], environment, **options)

    def selftest(self, *flags, environment=None):
        return self.start([WEFT, "selftest", "world", *flags], environment)

    def by_hand(self, size, *flags, port, ranks=None):
        """One process per rank, as torchrun would start them. Returns them by rank."""
        return {
            rank: self.selftest(
                *flags,
                environment={"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
            )
            for rank in (range(size) if ranks is None else ranks)
        }

    def remaining(self, wait=2.0):
        end = time.monotonic() + wait
        while (found := marked(self.mark)) and time.monotonic() < end:
            time.sleep(0.02)
        return found

    def end(self):
        for pid in marked(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for program in self.programs:
            program.process.wait()


@pytest.fixture
def worlds():
    """Starts programs; afterwards no process and no file of theirs may be left."""
    files = weft_files()
    all_worlds = Worlds()
    try:
        yield all_worlds
        left = all_worlds.remaining()
        commands = [pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left if is_alive(pid)]
        assert not left, f"processes remain: {left} {commands}"
        assert weft_files() <= files
    finally:
        all_worlds.end()


@pytest.fixture
def port():
    """A TCP port that was free a moment ago, outside the range that outgoing connections take theirs from."""
    for number in range(20000 + os.getpid() % 5000, 32000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", number))
            return number
    raise AssertionError("no free port")
