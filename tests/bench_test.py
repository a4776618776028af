"""weft bench model, generate and op: figures are complete, pictures are pictures, wrong flags are named."""
import json
import subprocess
import xml.dom.minidom

import pytest

from weft import MODEL, WEFT, fails, run


def bench(*arguments):
    done = run("bench", *arguments, "--json", timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def is_spread(value):
    return 0 < value["min"] <= value["median"] <= value["max"]


@pytest.mark.parametrize("ranks", [("--tp", 1, "--threads", 2), ("--tp", 2, "--threads", 1, "--mode", "ag_rs")])
def test_model_has_both_phases_and_ceilings(ranks, tmp_path):
    picture = tmp_path / "model.svg"
    report = bench("model", "--model", MODEL, *ranks, "--samples", 2, "--tokens", 40, "--context", 33, "--batch", 3,
                   "--max-tokens", 64, "--plot", picture)
    assert [p["phase"] for p in report["phases"]] == ["prefill", "decode"]
    prefill, decode = report["phases"]
    assert prefill["tokens"] == 120 and decode["tokens"] == 3 and decode["context"] == 33
    assert is_spread(prefill["ms"]) and is_spread(decode["ms"]) and is_spread(report["ceiling_gb_per_s"])
    assert 0 < prefill["percent_of_compute"] < 120 and 0 < decode["percent_of_reading"]
    svg = xml.dom.minidom.parse(str(picture)).documentElement
    assert svg.tagName == "svg" and len(svg.getElementsByTagName("rect")) == 3  # the paper and a bar for each phase


def test_model_takes_a_sample_for_every_line():
    done = subprocess.run([WEFT, "bench", "model", "--model", MODEL, "--threads", "1", "--tokens", "8", "--context", "8",
                           "--paced"], input="prefill\nread\ndecode\ncompute\n", capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, done.stderr
    first, *samples = [json.loads(line) for line in done.stdout.splitlines()]
    assert first["ready"] and first["bytes_per_step"] > 50e6
    assert [list(s) for s in samples] == [["prefill"], ["read"], ["decode"], ["compute"]]
    assert all(value > 0 for s in samples for value in s.values())
    done = subprocess.run([WEFT, "bench", "model", "--model", MODEL, "--tokens", "8", "--context", "8", "--paced"],
                          input="guess\n", capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "'guess'" in done.stderr


def test_generate_of_a_batch(tmp_path):
    report = bench("generate", "--model", MODEL, "--batch", 3, "--prompt-tokens", 9, "--gen-len", 4, "--samples", 2,
                   "--plot", tmp_path / "generate.svg")
    assert report["batch"] == 3 and is_spread(report["tokens_per_s"]) and is_spread(report["step_ms"])
    assert xml.dom.minidom.parse(str(tmp_path / "generate.svg")).documentElement.tagName == "svg"


def test_wrong_input_is_named(tmp_path):
    fails("bench", "model", "--model", MODEL, "--context", 1 << 20, says=["the model's context is 8192"])
    fails("bench", "model", "--model", MODEL, "--samples", 1, "--tokens", 8, "--context", 8, "--plot",
          tmp_path / "none/x.svg",
          says=["none/x.svg"])


@pytest.mark.parametrize("op", [("gemm", "--m", "1,5", "--n", 40, "--k", 64), ("attention", "--context", 70), ("swiglu",)])
def test_operators_draw_what_they_measure(op, tmp_path):
    picture = tmp_path / "op.svg"
    done = run("bench", "op", *op, "--samples", 3, "--json", "--plot", picture)
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(r["op"] == op[0] and is_spread(r["us"]) for r in reports)
    bars = xml.dom.minidom.parse(str(picture)).documentElement.getElementsByTagName("rect")
    assert len(bars) == 1 + len(reports)


def test_grouped_gemm_beside_one_matrix(tmp_path):
    report = bench("op", "grouped_gemm", "--tokens", 5, "--experts", 6, "--per-token", 2, "--n", 50, "--k", 64, "--samples", 2,
                   "--routing", "one_hot", "--plot", tmp_path / "grouped.svg")
    assert all(is_spread(report[key]) for key in ("us", "sum_us", "dense_us"))
    fails("bench", "op", "grouped_gemm", "--k", 40, says=["k: expected a multiple of 32 for q4_1, found 40"])
    fails("bench", "op", "grouped_gemm", "--experts", 2, says=["per_token: expected 1 to 2, found 4"])


def test_gpu_layers_need_a_gpu_and_a_model_that_has_them():
    """The figures need GPUs; what can be wrong with the flags is said anywhere."""
    fails("bench", "mlp", "--mode", "both", says=["--mode", "both"], code=2)
    fails("bench", "moe", "--mode", "copy", says=["--mode", "copy"], code=2)
    fails("check", "mlp", "--tp", 9, says=["--tp", "9"], code=2)
    for command in ("bench", "check"):
        for layer in ("mlp", "moe"):
            done = run(command, layer, "--m", 8)
            assert done.returncode == 1 and ("CUDA" in done.stderr or "GPU" in done.stderr), done.stderr
