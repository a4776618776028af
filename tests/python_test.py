"""The Python package, as the build made it: numpy arrays on ranks that are processes. Torch tensors where torch is."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest
from weft import ROOT, WEFT
from worlds import port, worlds  # noqa: F401, fixtures

PACKAGE = pathlib.Path(WEFT).parent / "python"
RANKS = ROOT / "tests/python"
EXAMPLE = ROOT / "examples/python/all_to_all.py"
# A Python of the same version that has torch, numpy and ml_dtypes, where this one has not.
TORCH = os.environ.get("WEFT_TORCH_PYTHON") or (sys.executable if importlib.util.find_spec("torch") else None)
ENVIRONMENT = {"PYTHONPATH": PACKAGE, "OMP_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 1}

pytestmark = pytest.mark.skipif(not list(PACKAGE.glob("weft/_weft*.so")), reason="the Python package was not built")


def start(worlds, *command, python=sys.executable, **environment):
    return worlds.start([python, *command], ENVIRONMENT | environment)


def launch(worlds, ranks, *command, **options):
    return start(worlds, "-m", "weft.launch", "-n", ranks, *command, **options)


def passed(program, text, ranks):
    assert program.wait(120) == 0, program.out_text() + program.err_text()
    assert program.out_text().count(text) == ranks, program.out_text()


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_type_and_form(worlds, ranks):
    passed(launch(worlds, ranks, RANKS / "exchange.py"), "cases passed", ranks)


@pytest.mark.skipif(TORCH is None, reason="torch is not installed; WEFT_TORCH_PYTHON names a Python that has it")
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_torch_tensors(worlds, ranks):
    passed(launch(worlds, ranks, RANKS / "exchange.py", "--torch", python=TORCH), "cases passed", ranks)


@pytest.mark.skipif(TORCH is None, reason="torch is not installed; WEFT_TORCH_PYTHON names a Python that has it")
def test_torch_tensors_on_gpus(worlds):
    probe = start(worlds, "-c", "import torch, weft; print(weft.has_cuda * torch.cuda.device_count())", python=TORCH)
    assert probe.wait(120) == 0, probe.err_text()
    gpus = int(probe.out_text())
    if gpus == 0:
        pytest.skip("no GPU is visible, or the package was built without CUDA")
    for ranks in sorted({1, min(gpus, 2), min(gpus, 4)}):
        passed(launch(worlds, ranks, RANKS / "exchange.py", "--cuda", python=TORCH), "cases passed", ranks)


@pytest.mark.skipif(TORCH is None, reason="torch is not installed; WEFT_TORCH_PYTHON names a Python that has it")
def test_torchrun_and_torch_distributed(worlds, port):
    run = start(worlds, "-m", "torch.distributed.run", "--nproc-per-node", 2, EXAMPLE, python=TORCH)
    passed(run, "sums match", 2)
    passed(start(worlds, RANKS / "torch_group.py", port, python=TORCH), "torch's group, as expected", 3)


def test_wrong_calls_are_refused_by_name(worlds):
    passed(start(worlds, RANKS / "refusals.py"), "every refusal names its argument", 1)


def test_a_rank_that_raises_is_named_by_the_others(worlds):
    program = launch(worlds, 2, RANKS / "faults.py", "raise")
    assert program.wait(60) == 1
    assert "KeyError: 'lost'" in program.err_text() and "AssertionError" not in program.err_text()


def test_a_late_rank_is_named_at_the_deadline(worlds):
    program = launch(worlds, 2, RANKS / "faults.py", "late")
    program.wait(60)
    assert "rank 0: as expected" in program.out_text(), program.err_text()


def test_other_threads_go_on_while_a_call_waits(worlds):
    passed(launch(worlds, 2, RANKS / "faults.py", "busy"), "as expected", 2)


@pytest.mark.skipif("WEFT_TEST_LONG" not in os.environ, reason="builds the package again: WEFT_TEST_LONG=1")
def test_wheel(worlds, tmp_path):
    subprocess.run(["make", "-C", ROOT, "wheel"], check=True, timeout=600)
    (wheel,) = ROOT.glob("build/wheel/weft-*manylinux*.whl")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-index", "--target", tmp_path, wheel], check=True)
    passed(launch(worlds, 3, EXAMPLE, PYTHONPATH=tmp_path), "sums match", 3)


def test_mpirun(worlds):
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2", sys.executable, EXAMPLE]
    passed(worlds.start(mpirun, ENVIRONMENT), "sums match", 2)


def test_one_command_per_node(worlds, port):
    world = {"WORLD_SIZE": 2, "WORLD_LOCAL_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    nodes = [start(worlds, EXAMPLE, **world, NODE_RANK=node) for node in range(2)]
    for program in nodes:
        passed(program, "sums match", 1)
