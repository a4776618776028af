"""Ranks of a server that die, stop or hang: noticed in time, said to every client, started again on the same port."""

import json
import os
import signal
import threading
import time

import pytest
from served import Server, events, hello, is_alive, raw_post, read_all
from weft import MODEL

NOTICED_WITHIN_S = 2.0


@pytest.fixture(scope="module")
def server():
    with Server("--tp", 2, "--threads", 1, "--max-step-tokens", 64, "--max-restart-wait", 0.2) as running:
        yield running
        pids = running.pids
        assert running.stop() == 0
        assert not any(is_alive(pid) for pid in pids)


def rank_pids(server):
    return json.loads(server.get("/stats")[2])["rank_pids"]


def wait_for_restart(server, before, timeout=60):
    """Until new ranks are ready; /health is 503 meanwhile and the port stays open all the time."""
    end = time.monotonic() + timeout
    while True:
        assert time.monotonic() < end and server.process.poll() is None, server.log_text()
        assert server.get("/live")[0] == 200
        status, _, body = server.get("/health")
        if status == 200 and rank_pids(server) != before:
            break
        if status != 200:
            assert status == 503 and json.loads(body)["error"]["code"] == "engine_unavailable"
        time.sleep(0.05)
    server.pids = rank_pids(server)
    assert not any(is_alive(pid) for pid in before), "a rank of the former world is left"


class Streams:
    """Streams under way, each on a thread. `decode`: until they have a first token; else in the middle of a prefill."""

    def __init__(self, server, count, decode):
        text = "Count to a million." if decode else "word " * 6000
        body = {"model": MODEL, **hello(text), "stream": True, "max_tokens": 1500, "ignore_eos": True}
        self.answers, self.ends, self.raws = [b""] * count, [0.0] * count, []
        self.threads = [threading.Thread(target=self._read, args=(server, i, body)) for i in range(count)]
        for thread in self.threads:
            thread.start()
        if decode:
            server.wait_until(lambda: all(b"content" in a for a in self.answers), timeout=60, what="every stream runs")
        else:
            server.wait_until(lambda: server.stats()["running"] >= 1, what="the prefill runs")
            time.sleep(0.3)

    def _read(self, server, i, body):
        with server.connect() as raw:
            raw.settimeout(60)
            raw.sendall(raw_post("/v1/chat/completions", body, extra="Connection: close\r\n"))
            while chunk := raw.recv(65536):
                self.answers[i] += chunk
        self.ends[i] = time.monotonic()

    def join(self):
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive(), "a stream was never ended"


@pytest.mark.parametrize("number, what", [(signal.SIGKILL, "signal 9"), (signal.SIGSTOP, "stop")])
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_a_rank_is_lost(server, victim, number, what, phase):
    before = rank_pids(server)
    assert len(before) == 2
    streams = Streams(server, 3 if phase == "decode" else 1, decode=phase == "decode")
    since = time.monotonic()
    os.kill(before[victim], number)
    streams.join()
    for answer, end in zip(streams.answers, streams.ends, strict=True):
        assert end - since < NOTICED_WITHIN_S, f"{end - since:.2f} s"
        assert b"[DONE]" not in answer
        head, _, body = answer.partition(b"\r\n\r\n")
        if phase == "decode":
            assert answer.endswith(b"0\r\n\r\n")  # the HTTP answer itself is whole
            fault = events(body.replace(b"\r\n", b"\n").decode())[-1]["error"]
        else:  # nothing was sent yet, so the status can say it
            assert head.startswith(b"HTTP/1.1 503")
            fault = json.loads(body)["error"]
        assert fault["code"] == "engine_unavailable" and f"rank {victim} " in fault["message"], fault
        # A stopped rank is killed by the others, which may come first.
        assert what in fault["message"] or "signal 9" in fault["message"], fault
    status, headers, body = server.chat(max_tokens=2)
    if status == 503:  # the ranks are not back yet
        assert int(headers["retry-after"]) >= 1 and body["error"]["type"] == "service_unavailable_error"
    wait_for_restart(server, before)
    assert server.chat(max_tokens=2)[0] == 200
    assert server.stats()["kv_pages_used"] == 0


def test_a_rank_is_lost_while_nothing_runs(server):
    before = rank_pids(server)
    since = time.monotonic()
    os.kill(before[1], signal.SIGKILL)
    while server.get("/health")[0] == 200:
        assert time.monotonic() - since < NOTICED_WITHIN_S
        time.sleep(0.02)
    wait_for_restart(server, before)
    assert server.chat(max_tokens=2)[0] == 200


@pytest.fixture(scope="module")
def hanging(tmp_path_factory):
    """A server with a step deadline of two seconds, and the file that makes a rank hang."""
    order = tmp_path_factory.mktemp("hang") / "rank"
    with Server("--tp", 2, "--threads", 1, "--step-deadline", 2, "--max-restart-wait", 0.2, WEFT_TEST_HANG=order) as running:
        yield running, order


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_hangs_inside_a_step(hanging, victim):
    server, order = hanging
    before = rank_pids(server)
    streams = Streams(server, 3, decode=True)
    since = time.monotonic()
    order.write_text(str(victim))
    streams.join()
    order.unlink()
    for answer, end in zip(streams.answers, streams.ends, strict=True):
        assert 1.5 < end - since < 2 + NOTICED_WITHIN_S, f"{end - since:.2f} s"
        assert b"[DONE]" not in answer and answer.endswith(b"0\r\n\r\n")
        fault = events(answer.partition(b"\r\n\r\n")[2].replace(b"\r\n", b"\n").decode())[-1]["error"]
        # Rank 0 reports whom it waited for; of a hanging rank 0 the engine knows only that nothing came.
        told = {"deadline_exceeded": "no result of a step from rank 0 within 2000 ms", "engine_unavailable": f"for rank {victim}"}
        assert told[fault["code"]] in fault["message"], fault
    wait_for_restart(server, before)
    assert server.chat(max_tokens=2)[0] == 200
    assert server.stats()["kv_pages_used"] == 0


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_hangs_while_nothing_is_asked(hanging, victim):
    server, order = hanging
    before = rank_pids(server)
    time.sleep(1.5)  # the server is idle, and healthy by its own probes
    assert server.get("/health")[0] == 200 and server.stats()["seconds_since_step"] < 1.5
    since = time.monotonic()
    order.write_text(str(victim))
    while server.get("/health")[0] == 200:
        assert time.monotonic() - since < 1 + 2 + NOTICED_WITHIN_S
        time.sleep(0.02)
    order.unlink()
    wait_for_restart(server, before)
    assert server.chat(max_tokens=2)[0] == 200


def test_ranks_are_named_children_of_the_server_in_its_session(server):
    for rank, pid in enumerate(rank_pids(server)):
        with open(f"/proc/{pid}/comm") as comm, open(f"/proc/{pid}/stat") as stat:
            assert comm.read().strip() == f"weft rank {rank}/2"
            fields = stat.read().rsplit(")", 1)[1].split()
        assert int(fields[1]) == server.process.pid  # the parent
        assert int(fields[3]) == os.getsid(server.process.pid)
        with open(f"/proc/{pid}/cmdline") as command:
            assert command.read().startswith(f"weft rank {rank}/2\0")


def test_ranks_end_with_a_server_that_is_killed():
    with Server("--tp", 2, "--threads", 1) as server:
        pids = server.pids
        server.process.kill()
        server.process.wait()
        end = time.monotonic() + 5
        while any(is_alive(pid) for pid in pids):
            assert time.monotonic() < end, "a rank outlives its server"
            time.sleep(0.02)


@pytest.mark.parametrize("after", [0.1, 0.3, 0.6, 1.0])
def test_termination_while_the_ranks_load(after):
    with Server("--tp", 2, "--threads", 1, wait=False) as server:
        time.sleep(after)
        server.process.send_signal(signal.SIGTERM)
        status = server.process.wait(5)
        # Before the server has begun to listen for signals there is nothing to end well.
        assert status in (0, -signal.SIGTERM), server.log_text()
        if after >= 0.6:
            assert status == 0, server.log_text()


def test_termination_with_ranks():
    with Server("--tp", 2, "--threads", 1, "--drain-timeout", 20) as server:
        pids = server.pids
        with server.connect() as raw:
            raw.sendall(raw_post("/v1/chat/completions", {"model": MODEL, **hello(), "stream": True, "max_tokens": 40,
                                                          "ignore_eos": True}, extra="Connection: close\r\n"))
            server.wait_until(lambda: server.stats()["running"] == 1, what="it runs")
            server.process.send_signal(signal.SIGTERM)
            answer = read_all(raw)
        assert b"data: [DONE]" in answer  # it had the time to end
        assert server.process.wait(20) == 0
        assert not any(is_alive(pid) for pid in pids)
