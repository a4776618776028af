"""The web page as `weft serve` sends it, with the real model behind it."""
import gzip
import json
import math
import mimetypes
import os
import pathlib
import re
import signal
import time

import page_mock
import pytest
from page_test import MISSING, answer, ask, browser, open_page  # noqa: F401 (fixtures)
from served import Server, hello, is_alive
from weft import MODEL

WEB = pathlib.Path(page_mock.ROOT / "web")
in_chromium = pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} is missing: scripts/setup dev installs it")
if not MISSING:
    from playwright.sync_api import expect


@pytest.fixture(scope="module")
def server():
    with Server("--tp", 2, "--api-key", "secret") as server:
        yield server


@pytest.fixture
def page(open_page, server):  # noqa: F811
    """The page with the key given and short, greedy answers chosen."""
    page = open_page(server.url + "/", quiet=False)  # the browser itself logs a status of 401
    page.get_by_role("dialog").get_by_label("API key").fill("secret")
    page.keyboard.press("Enter")
    expect(page.locator(".welcome em")).to_have_text(MODEL)
    parameters(page, temperature=0, max_tokens=24)
    return page


def parameters(page, **values):
    page.evaluate("values => localStorage.setItem('weft.settings', JSON.stringify(values))", values)
    page.reload()
    expect(page.locator(".model")).to_have_text(MODEL)


def with_key(**headers):
    return {"Authorization": "Bearer secret", **headers}


def stats_of(server):
    return json.loads(server.get("/stats", headers=with_key())[2])


def test_every_file_is_served_without_a_key_and_as_it_is(server):
    for file in WEB.rglob("*"):
        if file.is_dir() or file.suffix == ".md":
            continue
        path = "/" if file.name == "index.html" else f"/page/{file.relative_to(WEB)}"
        status, headers, text = server.get(path)
        assert (status, text) == (200, file.read_text()), path
        expected = mimetypes.guess_type(file.name)[0].replace("application/javascript", "text/javascript")
        assert headers["content-type"].split(";")[0] == expected, path
        assert headers["content-security-policy"] == page_mock.POLICY
        assert headers["x-content-type-options"] == "nosniff"
        again, kept, nothing = server.get(path, headers={"If-None-Match": headers["etag"]})
        assert (again, kept["etag"], nothing) == (304, headers["etag"], ""), path
        raw = server.send_raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n".encode())
        head, _, body = raw.partition(b"\r\n\r\n")
        assert b"content-encoding: gzip" in head.lower(), path
        assert gzip.decompress(body) == file.read_bytes(), path


def test_the_page_is_only_read(server):
    status, headers, _ = server.request("POST", "/", {})
    assert (status, headers["allow"]) == (405, "GET, HEAD")
    assert server.get("/page/vendor/README.md")[0] == 404
    assert server.get("/page/../app.js")[0] == 404
    status, headers, text = server.request("HEAD", "/page/app.js")
    assert (status, text) == (200, "") and int(headers["content-length"]) == (WEB / "app.js").stat().st_size
    assert server.get("/stats")[0] == 401


@in_chromium
def test_an_answer_is_that_of_the_api(page, server):
    ask(page, "What is gravity?")
    status, _, said = server.post("/v1/chat/completions", {
        "model": MODEL, **hello("What is gravity?"), "temperature": 0, "max_tokens": 24, "logprobs": True, "top_logprobs": 5,
    }, headers=with_key())
    assert status == 200
    choice = said["choices"][0]
    shown = answer(page).locator(".markdown").inner_text()
    assert " ".join(shown.split()) == " ".join(choice["message"]["content"].split())
    assert f"{said['usage']['completion_tokens']} tokens" in answer(page).locator(".numbers").inner_text()
    answer(page).locator(".markdown").focus()
    for token in choice["logprobs"]["content"][:4]:
        page.keyboard.press("ArrowRight")
        rows = page.locator(".tip-row")
        assert rows.locator("code").all_inner_texts() == [each["token"].replace(" ", "·").replace("\n", "↵") for each in token["top_logprobs"]]
        likely = float(page.locator(".tip .chosen span").last.inner_text().removesuffix(" %"))
        assert abs(likely - 100 * math.exp(token["logprob"])) < 0.1


@in_chromium
def test_the_live_view_shows_the_engine(page, server):
    live = page.get_by_role("complementary")
    expect(live.locator(".health")).to_have_text("Ready, 2 ranks")
    ask(page, "Count to ten.")
    ask(page, "And to twenty.")  # its prompt begins as the first
    expect(live.get_by_label("Time of each rank").locator(".ranks > div")).to_have_count(2)
    stats = stats_of(server)
    expect(live.get_by_label("Prefix hits")).to_contain_text(f"{stats['prefix_hits']:,} of {stats['prefix_queries']:,}")
    assert stats["prefix_hits"] > 0
    expect(live.get_by_label("KV pages")).to_contain_text(f"{stats['kv_pages_cached']:,}")
    figures = live.get_by_label("Tokens per second").locator("b")
    expect(figures.first).to_have_text("0.0")  # both answers have ended


@in_chromium
def test_stopping_ends_the_request_in_the_engine(page, server):
    parameters(page, max_tokens=4000, temperature=1, min_p=0.0, seed=3)
    ask(page, "Tell a very long story.", wait=False)
    expect(answer(page).locator(".markdown")).to_have_text(re.compile(r"\w+ \w+"), timeout=20000)
    page.keyboard.press("Escape")
    expect(answer(page).locator(".numbers")).to_contain_text("stopped")
    end = time.monotonic() + 5
    while (left := stats_of(server)["requests_open"]) and time.monotonic() < end:
        page.wait_for_timeout(50)
    assert left == 0


@in_chromium
def test_errors_of_the_server_are_shown(page):
    parameters(page, temperature=5)
    ask(page, "Hello")
    expect(answer(page).get_by_role("alert")).to_contain_text("temperature")


@in_chromium
def test_a_lost_rank_is_shown(page, server):
    """Last: the ranks that follow are others."""
    parameters(page, max_tokens=4000)
    ask(page, "Tell a very long story.", wait=False)
    expect(answer(page).locator(".markdown")).to_have_text(re.compile(r"\w+ \w+"), timeout=20000)
    pid = stats_of(server)["rank_pids"][1]
    assert is_alive(pid)
    os.kill(pid, signal.SIGKILL)
    expect(answer(page).get_by_role("alert")).to_contain_text("rank 1")
    # The page asks once a second: "Ready" may still be of before the loss.
    server.wait_until(lambda: (stats := stats_of(server))["ready"] and pid not in stats["rank_pids"], timeout=30, what="others")
    expect(page.locator(".health")).to_have_text("Ready, 2 ranks", timeout=30000)
    parameters(page, temperature=0, max_tokens=4)
    ask(page, "Hello")
    expect(answer(page).get_by_role("alert")).to_have_count(0)
