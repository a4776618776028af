"""weft chat --url against a mock server."""
import signal
import subprocess
import time

from mock_openai import mock_server
from weft import WEFT, clean_environment, fails, run


def test_history_reset_and_the_key():
    with mock_server(key="secret") as (url, mock):
        done = run("chat", "--url", url + "/v1", "--system", "Be brief.", "--max-tokens", 3, "--temperature", 0.5,
                   stdin="one\ntwo\n/reset\nthree\n/what\n/exit\nnever\n", WEFT_API_KEY="secret")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"plain at {url}. /reset")
    assert done.stdout.count("w0 w1 w2  [length limit reached]") == 3
    assert "(forgotten)" in done.stdout and "unknown command '/what'" in done.stdout
    said = [[message["content"] for message in body["messages"]] for _, _, body in mock.requests]
    assert said == [["Be brief.", "one"], ["Be brief.", "one", "w0 w1 w2 ", "two"], ["Be brief.", "three"]]
    body = mock.requests[0][2]
    assert body["temperature"] == 0.5 and body["max_tokens"] == 3 and "top_k" not in body


def test_ctrl_c_stops_the_answer_and_the_server_knows():
    with mock_server(gap_s=0.05) as (url, mock):
        chat = subprocess.Popen([WEFT, "chat", "--url", url, "--max-tokens", "2000"], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment())
        chat.stdin.write("Count.\n")
        chat.stdin.flush()
        line = ""
        while "w2" not in line:
            line += chat.stdout.read(1)
        chat.send_signal(signal.SIGINT)
        out, err = chat.communicate("/exit\n", timeout=30)
        deadline = time.monotonic() + 10
        while mock.running and time.monotonic() < deadline:
            time.sleep(0.02)
    assert chat.returncode == 0, err
    assert "[stopped]" in out
    assert mock.gone == 1 and mock.running == 0


def test_a_fault_is_said_and_the_conversation_goes_on():
    with mock_server("busy") as (url, mock):
        done = run("chat", "--url", url, "--max-tokens", 2, stdin="one\ntwo\n/exit\n")
    assert done.returncode == 0
    assert "w0 w1" in done.stdout and f"{url}/v1/chat/completions: HTTP 429: too many requests" in done.stdout
    with mock_server("error") as (url, _):
        done = run("chat", "--url", url, stdin="one\n/exit\n")
    assert done.returncode == 0 and "rank 1 is gone" in done.stdout


def test_flags_that_contradict():
    fails("chat", says=["--model", "--url"])
    fails("chat", "--url", "http://127.0.0.1:1", says=["http://127.0.0.1:1/v1/models", "refused"])
    fails("chat", "--url", "http://127.0.0.1:1", "--tp", 2, says=["--tp"], code=2)
