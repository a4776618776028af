"""weft bench serve against a mock server whose delays and faults are scripted."""
import html.parser
import json
import re

import pytest

from mock_openai import mock_server
from weft import fails, run


def bench(url, *arguments, code=0, **kwargs):
    done = run("bench", "serve", "--url", url, "--json", "--quiet", *arguments, **kwargs)
    assert done.returncode == code, (done.returncode, done.stderr)
    return json.loads(done.stdout)


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_scripted_delays_are_lower_bounds(endpoint):
    with mock_server(first_s=0.05, gap_s=0.01) as (url, mock):
        report = bench(url, "--endpoint", endpoint, "--requests", 12, "--concurrency", 4, "--input-len", 5,
                       "--output-len", 10)
    assert report["completed"] == 12 and report["failed"] == 0
    assert report["output_tokens"] == 120 and report["prompt_tokens"] == 84
    assert report["tokens_counted_by"] == "server"
    # Only what a busy machine cannot shorten: a first token may be seen late, so gaps count together with it. The clocks
    # of both ends may differ by rounding.
    assert report["ttft_ms"]["min"] >= 49
    assert report["ttft_ms"]["mean"] + 9 * report["tpot_ms"]["mean"] >= 49 + 9 * 10
    assert report["tpot_ms"]["count"] == 12 and report["itl_ms"]["count"] == 12 * 9
    assert report["itl_ms"]["mean"] == pytest.approx(report["tpot_ms"]["mean"], rel=0.01)
    assert report["e2e_ms"]["min"] >= 49 + 9 * 10
    assert report["duration_s"] >= 3 * (0.049 + 9 * 0.01)
    for name in ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"):
        spread = report[name]
        assert spread["min"] <= spread["p50"] <= spread["p90"] <= spread["p99"] <= spread["max"]
    assert mock.most_running <= 4
    assert mock.connections <= 5  # kept and used again
    path, _, body = mock.requests[1]
    assert path == ("/v1/chat/completions" if endpoint == "chat" else "/v1/completions")
    assert body["stream"] is True and body["max_tokens"] == 10 and body["ignore_eos"] is True
    prompt = body["messages"][0]["content"] if endpoint == "chat" else body["prompt"]
    assert len(prompt.split()) == 5


def test_poisson_arrivals_and_the_seed():
    with mock_server() as (url, mock):
        report = bench(url, "--rate", 100, "--requests", 50, "--output-len", 2, "--seed", 3)
        prompts = [body["prompt"] for _, _, body in mock.requests[1:]]
        mock.requests.clear()
        bench(url, "--rate", 500, "--requests", 50, "--output-len", 2, "--seed", 3)
        again = [body["prompt"] for _, _, body in mock.requests[1:]]
        mock.requests.clear()
        bench(url, "--rate", 500, "--requests", 50, "--output-len", 2, "--seed", 4)
        other = [body["prompt"] for _, _, body in mock.requests[1:]]
    assert report["completed"] == 50
    assert report["duration_s"] > 0.2  # 50 arrivals take 0.5 s on average; 4 standard deviations less are 0.2 s
    assert sorted(prompts) == sorted(again)
    assert len(set(prompts) & set(other)) == 0


def test_a_request_that_waits_in_the_client_has_waited():
    with mock_server(first_s=0.1) as (url, mock):
        report = bench(url, "--rate", 10000, "--concurrency", 1, "--requests", 5, "--output-len", 1)
    assert mock.most_running == 1
    assert report["ttft_ms"]["max"] >= 450  # the fifth


def test_duration_ends_the_test():
    with mock_server(first_s=0.02) as (url, _):
        report = bench(url, "--duration", 1, "--concurrency", 2, "--output-len", 2)
    assert report["duration_s"] >= 0.9 and report["completed"] >= 2


def test_datasets():
    with mock_server() as (url, mock):
        bench(url, "--dataset", "prefix-shared", "--prefix-len", 20, "--prefix-groups", 2, "--input-len", 30,
              "--requests", 40, "--output-len", 1)
        words = [body["prompt"].split() for _, _, body in mock.requests[1:]]
        assert len({tuple(prompt[:20]) for prompt in words}) == 2
        assert len({tuple(prompt) for prompt in words}) == 40 and {len(prompt) for prompt in words} == {30}
        mock.requests.clear()
        bench(url, "--dataset", "sharegpt-like", "--input-len", 50, "--output-len", 3, "--requests", 40)
        lengths = {len(body["prompt"].split()) for _, _, body in mock.requests[1:]}
        assert len(lengths) > 10
        mock.requests.clear()
        bench(url, "--vocab", 1000, "--input-len", 6, "--requests", 3, "--output-len", 1)
        ids = mock.requests[1][2]["prompt"]
        assert len(ids) == 6 and all(0 <= token < 1000 for token in ids)


@pytest.mark.parametrize("model,note,counted_by", [
    ("no-usage", "sends no usage", "events with text"),
    ("no-ignore-eos", "refuses ignore_eos", "server"),
    ("strict", "refuses stream_options", "events with text"),
    ("crlf", None, "server"),
])
def test_servers_that_differ(model, note, counted_by):
    with mock_server(model) as (url, _):
        report = bench(url, "--requests", 4, "--output-len", 6)
    assert report["completed"] == 4 and report["output_tokens"] == 24, report
    assert report["tokens_counted_by"] == counted_by
    assert report["notes"] == [] if note is None else any(note in text for text in report["notes"])


@pytest.mark.parametrize("model,says", [
    ("cut", "closed the connection"),
    ("error", "rank 1 is gone"),
    ("busy", "HTTP 429: too many requests"),
])
def test_failures_are_counted_by_message(model, says):
    with mock_server(model) as (url, _):
        done = run("bench", "serve", "--url", url, "--json", "--quiet", "--requests", 3, "--output-len", 5)
    assert done.returncode == 1 and says in done.stderr
    report = json.loads(done.stdout)
    assert report["completed"] == 0 and report["failed"] == 3
    assert sum(report["errors"].values()) == 3 and says in next(iter(report["errors"]))


def test_faults_of_the_first_request_end_the_command():
    with mock_server("json") as (url, _):
        fails("bench", "serve", "--url", url, says=[url, "no event stream", "all at once"])
    with mock_server("silent") as (url, _):
        fails("bench", "serve", "--url", url, "--timeout", 0.3, says=[url, "0.3 s", "waiting for the answer"])
    with mock_server(key="secret") as (url, _):
        fails("bench", "serve", "--url", url, "--api-key", "guess", says=["HTTP 401: wrong key"])
        assert bench(url, "--requests", 2, "--output-len", 1, WEFT_API_KEY="secret")["completed"] == 2
    fails("bench", "serve", "--url", "http://127.0.0.1:1", says=["http://127.0.0.1:1/v1/models", "refused"])
    fails("bench", "serve", "--url", "https://example.org", says=["https is not supported"])
    fails("bench", "serve", "--url", "http://no-such-host.invalid", says=["no-such-host.invalid"])
    fails("bench", "serve", "--url", "ftp://x", says=["scheme"])
    fails("bench", "serve", "--goodput", "ttft=3", says=["ttft=3"])
    fails("bench", "serve", "--extra", "[1]", says=["--extra"])
    fails("bench", "serve", "--endpoint", "chat", "--vocab", 10, says=["token ids"])


def test_goodput_counts_what_keeps_the_target():
    with mock_server(first_s=0.05) as (url, _):
        report = bench(url, "--requests", 4, "--concurrency", 1, "--output-len", 2, "--goodput", "ttft:20,e2e:60000")
        assert report["goodput"]["good"] == 0
        report = bench(url, "--requests", 4, "--concurrency", 1, "--output-len", 2, "--goodput", "e2e:60000")
        assert report["goodput"]["good"] == 4 and report["goodput"]["share"] == 1


def test_report_is_one_well_formed_page(tmp_path):
    page = tmp_path / "report.html"
    with mock_server(gap_s=0.002) as (url, _):
        done = run("bench", "serve", "--url", url + "/v1", "--requests", 6, "--output-len", 8, "--report", page)
    assert done.returncode == 0, done.stderr
    assert "TTFT" in done.stdout and "p99" in done.stdout and "6 completed, 0 failed" in done.stdout
    text = page.read_text()
    open_tags = []

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, _):
            if tag not in ("meta",):
                open_tags.append(tag)

        def handle_startendtag(self, tag, _):
            pass

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Parser().feed(text)
    assert open_tags == [] and text.count("<svg") == 6
    assert not re.search(r'(src|href)=|@import|url\(', text)  # no reference to anything outside
    assert "nan" not in text and "inf" not in re.sub("information", "", text)


def test_many_streams_at_once():
    with mock_server(gap_s=0.2) as (url, mock):
        report = bench(url, "--requests", 400, "--concurrency", 400, "--output-len", 4)
    assert report["completed"] == 400 and report["failed"] == 0
    assert mock.most_running > 100
