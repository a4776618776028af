"""weft check: logits equal to Hugging Face's, bitwise repeatable, and a wrong golden is noticed."""
import json
import os
import struct

import pytest

from weft import GOLDEN, MODEL, fails, run


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
