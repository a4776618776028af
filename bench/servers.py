"""What the benchmarks of servers share: starting one, loading it with `weft bench serve`, and where a figure is from."""
import contextlib
import datetime
import json
import os
import pathlib
import platform
import shlex
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
WEFT = os.environ.get("WEFT_BINARY", str(ROOT / "build/release/weft"))
CLIENT = os.environ.get("WEFT_CLIENT_BINARY", WEFT)  # one client for servers of two revisions


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cpu_seconds(pid):
    """Processor time that a process has used, its threads' included, its children's not."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid, name="VmRSS"):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


class Server:
    def __init__(self, process, url, command):
        self.process, self.url, self.command, self.pid = process, url, command, process.pid

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return answer.read().decode()

    def load(self, *arguments, timeout=600, before=()):
        """The report of `weft bench serve` against this server."""
        done = subprocess.run([*before, CLIENT, "bench", "serve", "--url", self.url, "--json", "--quiet",
                               *map(str, arguments)], capture_output=True, text=True, timeout=timeout)
        if done.returncode != 0:
            raise SystemExit(f"weft bench serve: {done.stderr}")
        return json.loads(done.stdout)


@contextlib.contextmanager
def running(command, port, health="/health", deadline_s=120):
    """A server that `command` starts on `port`, ready; ended at the end. Its output is shown if it does not get ready."""
    command = [str(part) for part in command]
    log = open(f"/tmp/weft-bench-server-{port}.log", "w+")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    server = Server(process, f"http://127.0.0.1:{port}", shlex.join(command))
    try:
        until = time.monotonic() + deadline_s
        while True:
            if process.poll() is not None or time.monotonic() > until:
                log.seek(0)
                raise SystemExit(f"{server.command}: not ready in {deadline_s} s:\n{log.read()[-3000:]}")
            with contextlib.suppress(OSError):
                server.get(health)
                break
            time.sleep(0.1)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        log.close()
        os.unlink(log.name)


def weft_server(model, *arguments, before=(), **kwargs):
    port = free_port()
    return running([*before, WEFT, "serve", "--model", model, "--port", port, *arguments], port, **kwargs)


def origin():
    """Where and from what a figure comes."""
    def output(*command):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else "unknown"

    cpu = "unknown"
    with contextlib.suppress(OSError, StopIteration):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {"command": shlex.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
            "revision": output("git", "rev-parse", "--short", "HEAD"),
            "modified": output("git", "status", "--porcelain", "--untracked-files=no", "src") != "",
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "cpu": cpu, "cpus": len(os.sched_getaffinity(0)), "platform": platform.platform(),
            "load_average_before": os.getloadavg()[0],
            "loaded": os.getloadavg()[0] > 0.5}  # by others, before anything was started here


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "samples": list(values)}


def save(path, result):
    text = json.dumps(result, indent=1)
    if path:
        pathlib.Path(path).write_text(text + "\n")
    print(text)
