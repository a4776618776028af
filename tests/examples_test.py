"""The tutorials of examples/, which check their own results, on CPU ranks."""

import pathlib
import subprocess

import pytest

from weft import WEFT, clean_environment

ROOT = pathlib.Path(__file__).resolve().parent.parent
TUTORIALS = sorted(path.stem for path in (ROOT / "examples").glob("[0-9]*.cc"))
BUILT = pathlib.Path(WEFT).resolve().parent / "examples"


def run(*arguments):
    return subprocess.run(
        [str(argument) for argument in arguments],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_all_six_are_there():
    assert len(TUTORIALS) == 6


@pytest.mark.parametrize("name", TUTORIALS)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_threads(name, ranks):
    done = run(BUILT / name, "--ranks", ranks)
    assert done.returncode == 0, done.stderr
    assert f"{ranks} rank{'s' if ranks > 1 else ''}, correct" in done.stdout


@pytest.mark.parametrize("name", TUTORIALS)
def test_processes(name):
    done = run(WEFT, "launch", "-n", 3, "--", BUILT / name)
    assert done.returncode == 0, done.stderr
    assert "3 ranks, correct" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranks", "0"], "--ranks: expected a number from 1 to 8, found '0'"),
        (["--ranks"], "--ranks: expected a number from 1 to 8, found ''"),
        (["--rank", "2"], "--rank: the flags are --ranks N and --cuda"),
    ],
)
def test_wrong_flags(arguments, message):
    done = run(BUILT / TUTORIALS[0], *arguments)
    assert done.returncode == 2
    assert message in done.stderr
