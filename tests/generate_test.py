"""weft generate, chat, tokenize and info with the real model."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

from weft import MODEL, WEFT, clean_environment, fails, generate, run

QUESTION = "What is the capital of France? Answer in one sentence."


def test_answers_and_reports_figures():
    answer = generate("--tp", 2, "--max-tokens", 40, QUESTION)
    assert "Paris" in answer["text"]
    assert answer["finish_reason"] == "stop"
    assert answer["tp"] == 2 and answer["threads"] >= 1
    assert answer["completion_tokens"] == len(answer["token_ids"]) + 1  # the end token is counted, not shown
    for figure in ("load_s", "ttft_s", "prefill_tokens_per_s", "decode_tokens_per_s", "peak_memory_bytes"):
        assert answer[figure] > 0, figure


def test_every_size_and_mode_gives_the_same_text():
    """Sums over ranks round differently; greedy text this short must not care."""
    texts = {(tp, mode): generate("--tp", tp, "--mode", mode, "--max-tokens", 24, QUESTION)["text"]
             for tp in (1, 2, 3, 4, 9) for mode in ("ar", "ag_rs", "auto")}
    assert len(set(texts.values())) == 1, texts


def test_runs_repeat_bit_for_bit_with_any_threads():
    sampled = ("--temperature", 0.9, "--top-p", 0.95, "--seed", 7, "--max-tokens", 32, "Tell me a short story.")
    first = generate("--tp", 2, "--threads", 1, *sampled)["token_ids"]
    assert first == generate("--tp", 2, "--threads", 2, *sampled)["token_ids"]
    assert first != generate("--tp", 2, "--threads", 1, "--seed", 8, *sampled[:4], *sampled[6:])["token_ids"]


def test_launcher_and_mpirun_give_the_same_text_once():
    alone = run("generate", "--model", MODEL, "--tp", 4, "--max-tokens", 16, QUESTION)
    assert alone.returncode == 0, alone.stderr
    launched = subprocess.run([WEFT, "launch", "-n", "4", "--raw", "--", WEFT, "generate", "--model", MODEL,
                               "--max-tokens", "16", QUESTION], capture_output=True, text=True, timeout=120,
                              env=clean_environment())
    assert launched.returncode == 0, launched.stderr
    assert launched.stdout == alone.stdout
    mpi = run("generate", "--model", MODEL, "--max-tokens", 16, QUESTION,
              before=("mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "4"))
    assert mpi.returncode == 0, mpi.stderr
    assert mpi.stdout == alone.stdout


def test_prompt_sources_agree(tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text(QUESTION)
    expected = generate("--max-tokens", 8, QUESTION)["token_ids"]
    assert generate("--max-tokens", 8, "--prompt-file", file)["token_ids"] == expected
    assert generate("--max-tokens", 8, stdin=QUESTION)["token_ids"] == expected
    ids = json.loads(run("tokenize", "--model", MODEL, "--json", "The sky is").stdout)["ids"]
    raw = generate("--raw", "--max-tokens", 8, "The sky is")["token_ids"]
    assert generate("--prompt-ids", ",".join(map(str, ids)), "--max-tokens", 8)["token_ids"] == raw


def test_length_limit_and_ignored_end():
    answer = generate("--max-tokens", 5, QUESTION)
    assert (answer["finish_reason"], answer["completion_tokens"]) == ("length", 5)
    long = generate("--max-tokens", 60, "--ignore-eos", QUESTION)
    assert (long["finish_reason"], len(long["token_ids"])) == ("length", 60)


def test_a_long_prompt_is_taken_in_chunks():
    words = " ".join(f"Item {i} costs {i * 7 % 13} coins." for i in range(120))
    answer = generate("--max-tokens", 4, words)
    assert answer["prompt_tokens"] > 1024


def test_bad_input_is_one_clear_line(tmp_path):
    fails("generate", "--model", "nonsense", "x", says=["nonsense", MODEL])
    fails("generate", "--model", tmp_path / "absent.gguf", "x", says=["absent.gguf"])
    fails("generate", "--model", MODEL, "--tp", 50, "x", says=["--tp 50", "9 query heads"])
    fails("generate", "--model", MODEL, "--thread", 2, "x", says=["--thread", "did you mean '--threads'"], code=2)
    fails("generat", says=["generat", "did you mean 'generate'"], code=2)
    fails("generate", "--modell", MODEL, "x", says=["--modell", "did you mean '--model'"], code=2)  # not: --model is required
    fails("generate", "--model", MODEL, "--temperature", -1, "x", says=["--temperature"], code=2)
    fails("generate", "--model", MODEL, "--prompt-ids", "1,2,49152", says=["49152", "vocabulary"])
    fails("generate", "--model", MODEL, "word " * 9000, says=["the prompt has", "8192"])
    fails("generate", "--model", MODEL, "--raw", stdin="", says=["the prompt is empty"])
    fails("generate", "--model", MODEL, "x", WEFT_CPU="quantum", says=["WEFT_CPU", "quantum"])
    corrupt = tmp_path / "corrupt.gguf"
    corrupt.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 64)
    fails("generate", "--model", corrupt, "x", says=["corrupt.gguf", "byte"])


def test_a_world_of_another_size_is_refused():
    done = subprocess.run([WEFT, "launch", "-n", "2", "--", WEFT, "generate", "--model", MODEL, "--tp", "3", "x"],
                          capture_output=True, text=True, timeout=60, env=clean_environment())
    assert done.returncode != 0
    assert "--tp 3: the world has 2 ranks" in done.stderr


def test_a_full_output_is_reported():
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    with open("/dev/full", "w") as full:
        done = subprocess.run([WEFT, "generate", "--model", MODEL, "--max-tokens", "4", "x"], stdout=full,
                              stderr=subprocess.PIPE, text=True, timeout=60, env=clean_environment())
    assert done.returncode != 0 and "stdout" in done.stderr


def test_chat_keeps_history_and_resets():
    script = "My name is Ada. Please remember it.\nWhat is my name?\n/reset\n/bogus\n/exit\n"
    done = run("chat", "--model", MODEL, "--tp", 2, "--max-tokens", 40, stdin=script)
    assert done.returncode == 0, done.stderr
    turns = done.stdout.split("> ")
    assert "Ada" in turns[2], done.stdout
    assert "(forgotten)" in turns[3] and "unknown command '/bogus'" in turns[4]


def test_interrupt_stops_the_answer_and_not_the_program():
    chat = subprocess.Popen([WEFT, "chat", "--model", MODEL, "--tp", "2", "--max-tokens", "2000", "--ignore-eos"],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=clean_environment())
    chat.stdin.write("Count slowly from one to a thousand.\n")
    chat.stdin.flush()
    time.sleep(3)
    chat.send_signal(signal.SIGINT)
    chat.stdin.write("/exit\n")
    out, err = chat.communicate(timeout=30)
    assert chat.returncode == 0, err
    assert "[stopped]" in out


def test_idle_chat_outlives_the_deadline():
    chat = subprocess.Popen([WEFT, "chat", "--model", MODEL, "--tp", "2", "--deadline", "3", "--max-tokens", "8"],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=clean_environment())
    time.sleep(6)
    out, err = chat.communicate("Hello!\n/exit\n", timeout=60)
    assert chat.returncode == 0, err


def test_info_and_tokenize():
    info = json.loads(run("info", "--model", MODEL, "--json").stdout)
    assert info["model"]["layers"] == 30 and info["model"]["parameters"] == 134515008
    assert info["host"]["cpus_usable"] >= 1
    tokens = json.loads(run("tokenize", "--model", MODEL, "--json", "Hello world").stdout)
    assert run("tokenize", "--model", MODEL, "--decode", ",".join(map(str, tokens["ids"]))).stdout == "Hello world\n"
    assert run("info").stdout.startswith("host")
    assert pathlib.Path(info["model"]["path"]).suffix == ".gguf" and shutil.which(WEFT)
