"""weft check: logits equal to Hugging Face's, bitwise repeatable, and a wrong golden is noticed."""
import json
import os
import shutil
import struct

import pytest

from weft import GOLDEN, MODEL, ROOT, fails, run

TINY = ROOT / "tests/goldens/tiny-llama"  # made by scripts/make_tiny_llama.py


def check(*arguments, golden=GOLDEN, **kwargs):
    done = run("check", "--model", MODEL, "--golden", golden, "--json", *arguments, timeout=300, **kwargs)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("mode", ["ar", "ag_rs"])
@pytest.mark.parametrize("tp", [1, 2, 3, 4, 9])
def test_logits_match_hugging_face_at_every_size(tp, mode):
    code, report = check("--tp", tp, "--mode", mode)
    assert code == 0 and report["passed"], report
    # Batch-invariance: whole, in chunks or token by token, the bits are the same.
    assert len({p["hash"] for p in report["passes"][:3]}) == 1, report
    again = check("--tp", tp, "--mode", mode)[1]
    assert [p["hash"] for p in again["passes"]] == [p["hash"] for p in report["passes"]]


@pytest.mark.parametrize("mode", ["ar", "ag_rs"])
@pytest.mark.parametrize("tp", [1, 2, 3, 4, 5, 6])
def test_a_hugging_face_folder_matches_at_every_size(tp, mode):
    done = run("check", "--model", TINY, "--golden", TINY / "golden.safetensors", "--tp", tp, "--mode", mode)
    assert done.returncode == 0, done.stdout + done.stderr


def edited_folder(tmp_path, **fields):
    """A copy of the tiny folder whose config.json has `fields` changed; None takes one out."""
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    config.update(fields)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


def test_folders_that_would_run_wrong_are_refused_by_name(tmp_path):
    def refused(says, **fields):
        fails("info", "--model", edited_folder(tmp_path, **fields), says=["config.json", *says])
    refused(["model_type 'gpt2'"], model_type="gpt2")
    refused(["attention_bias"], attention_bias=True)
    refused(["hidden_act", "gelu"], hidden_act="gelu")
    refused(["yarn"], rope_parameters={"rope_type": "yarn", "rope_theta": 1e4})
    refused(["num_hidden_layers", "nothing"], num_hidden_layers=None)
    refused(["vocab_size", "-3"], vocab_size=-3)
    refused(["eos_token_id"], eos_token_id=[2, 211])
    refused(["7 query heads"], num_attention_heads=7)
    golden = ("--golden", TINY / "golden.safetensors")
    fails("check", "--model", edited_folder(tmp_path, hidden_size=64, head_dim=24), *golden,
          says=["embed_tokens", "expected bf16 [211, 64]", "found bf16 [211, 96]"])
    broken = edited_folder(tmp_path)
    (broken / "model-00002-of-00003.safetensors").unlink()
    fails("check", "--model", broken, *golden, says=["model-00002-of-00003.safetensors"])
    fails("generate", "--model", TINY, "hello", says=["tokenizer.json"])


def test_the_older_form_of_config_json_means_the_same(tmp_path):
    rope = json.loads((TINY / "config.json").read_text())["rope_parameters"]
    older = edited_folder(tmp_path, rope_parameters=None, rope_theta=rope.pop("rope_theta"), rope_scaling=rope,
                          torch_dtype="bfloat16", dtype=None)
    runs = [run("check", "--model", m, "--golden", TINY / "golden.safetensors", "--json") for m in (TINY, older)]
    assert runs[0].returncode == 0 and runs[0].stdout == runs[1].stdout, runs[1].stderr


def test_threads_do_not_change_a_bit():
    hashes = [[p["hash"] for p in check("--tp", 2, "--threads", threads)[1]["passes"]] for threads in (1, 2, 3)]
    assert hashes[0] == hashes[1] == hashes[2]


def read_safetensors(path):
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        return json.loads(file.read(size)), bytearray(file.read())


def write_safetensors(path, header, data):
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + bytes(data))
    return str(path)


def test_a_wrong_golden_fails(tmp_path):
    """Logits shifted by one position must not pass: the check can fail."""
    header, data = read_safetensors(GOLDEN)
    row = 49152 * 2
    for tensor in ("logits", "logits_bf16"):  # both, or the yardstick would grow with the error
        begin, end = header[tensor]["data_offsets"]
        data[begin:end] = data[begin + row:end] + data[begin:begin + row]
    code, report = check(golden=write_safetensors(tmp_path / "shifted.safetensors", header, data))
    assert code == 1 and not report["passed"]


def test_malformed_goldens_are_named(tmp_path):
    header, data = read_safetensors(GOLDEN)
    missing = {k: v for k, v in header.items() if k != "logits_bf16"}
    path = write_safetensors(tmp_path / "missing.safetensors", missing, data)
    fails("check", "--model", MODEL, "--golden", path, says=["logits_bf16", "missing"])
    ids = header["input_ids"]["data_offsets"][0]
    bad = bytearray(data)
    bad[ids:ids + 8] = struct.pack("<q", 49152)
    path = write_safetensors(tmp_path / "range.safetensors", header, bad)
    fails("check", "--model", MODEL, "--golden", path, says=["input_ids", "49152"])
    fails("check", "--model", MODEL, "--golden", os.devnull, says=["/dev/null"])
