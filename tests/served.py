"""What the server's tests share: a running `weft serve`, and raw sockets to it."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

from weft import MODEL, WEFT, clean_environment

READY = re.compile(r"weft: ready: http://127\.0\.0\.1:(\d+) \| model (\S+) \| (\d+) ranks? \(pids ([^)]*)\) \| (\d+) KV tokens")


class Server:
    """A `weft serve` on a free port, ready when the constructor returns."""

    def __init__(self, *flags, wait=True, model=MODEL, **environment):
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [WEFT, "serve", "--model", str(model), "--port", "0", *map(str, flags)],
            stdout=subprocess.PIPE, stderr=self.log, stdin=subprocess.DEVNULL, env=clean_environment(**environment))
        self.lines = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if wait:
            self.wait_ready()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.decode())

    def wait_ready(self, timeout=60):
        end = time.monotonic() + timeout
        while not self.lines:
            assert self.process.poll() is None, self.log_text()
            assert time.monotonic() < end, "not ready in time: " + self.log_text()
            time.sleep(0.02)
        match = READY.match(self.lines[0])
        assert match, self.lines[0]
        self.port, self.num_ranks, self.kv_tokens = int(match[1]), int(match[3]), int(match[5])
        self.pids = [int(pid) for pid in re.findall(r"\d+", match[4])]
        self.url = f"http://127.0.0.1:{self.port}"

    def log_text(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def client(self, **options):
        import openai

        options = {"api_key": "none", "max_retries": 0, "timeout": 60, **options}
        return openai.OpenAI(base_url=self.url + "/v1", **options)

    def request(self, method, path, body=None, headers=None, timeout=30):
        """(status, headers, text) of one request; `body` is sent as JSON unless it is bytes."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers or {})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.headers, answer.read().decode()
        except urllib.error.HTTPError as fault:
            return fault.code, fault.headers, fault.read().decode()

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, body, **options):
        status, headers, text = self.request("POST", path, body, **options)
        return status, headers, json.loads(text)

    def chat(self, **fields):
        return self.post("/v1/chat/completions", {"model": MODEL, **hello(), **fields})

    def stats(self):
        return json.loads(self.get("/stats")[2])

    def wait_until(self, condition, timeout=20, what="condition"):
        end = time.monotonic() + timeout
        while not condition():
            assert self.process.poll() is None, self.log_text()
            assert time.monotonic() < end, f"{what}: not within {timeout} s; stats {self.stats()}"
            time.sleep(0.02)

    def connect(self, receive_buffer=None):
        raw = socket.socket()
        if receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        raw.settimeout(20)
        raw.connect(("127.0.0.1", self.port))
        return raw

    def send_raw(self, data, timeout=10, half_close=False):
        """Sends bytes and returns all that comes until the server closes or `timeout` passes without a byte."""
        with self.connect() as raw:
            raw.settimeout(timeout)
            with contextlib.suppress(ConnectionError):
                raw.sendall(data)
                if half_close:
                    raw.shutdown(socket.SHUT_WR)
            return read_all(raw)

    def stop(self, timeout=20):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout)
        self.reader.join(5)
        return status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def read_all(raw):
    received = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        while chunk := raw.recv(65536):
            received += chunk
    return received


def hello(text="Say hello."):
    return {"messages": [{"role": "user", "content": text}]}


def raw_post(path, body, extra="", method="POST"):
    """The bytes of a request."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n{extra}\r\n".encode() + data


def events(text):
    """The data of server-sent events, parsed; "[DONE]" as it is."""
    found = []
    for block in text.split("\n\n"):
        for line in block.splitlines():
            if line.startswith("data: "):
                data = line[len("data: "):]
                found.append(data if data == "[DONE]" else json.loads(data))
    return found


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))
