"""What a client can do wrong, by mistake or on purpose: every request gets its answer, and the server lives on.

The ranks are a mock (--mock): what is tested is the front end."""

import contextlib
import json
import signal
import socket
import threading
import time

import openai
import pytest
from served import Server, events, hello, open_files, raw_post, read_all
from weft import MODEL, fails


@pytest.fixture(scope="module")
def server():
    with Server("--mock", "--header-timeout", 1, "--body-timeout", 1.5, "--max-body-bytes", 1 << 20) as running:
        yield running
        assert running.get("/health")[0] == 200  # still
        assert running.stop() == 0


def chat_body(**fields):
    return {"model": MODEL, **hello(), "max_tokens": 4, **fields}


def status_of(raw):
    return int(raw.split(b" ", 2)[1]) if raw else None


# Fields ----------------------------------------------------------------------------------------------------------

BAD_FIELDS = [
    ({"temperature": "1"}, "temperature", "invalid_type"),
    ({"temperature": True}, "temperature", "invalid_type"),
    ({"temperature": -0.1}, "temperature", "decimal_below_min_value"),
    ({"temperature": 2.5}, "temperature", "decimal_above_max_value"),
    ({"top_p": 0}, "top_p", "integer_below_min_value"),
    ({"top_p": 1.01}, "top_p", "decimal_above_max_value"),
    ({"n": 0}, "n", "integer_below_min_value"),
    ({"n": 129}, "n", "integer_above_max_value"),
    ({"n": 1.5}, "n", "invalid_type"),
    ({"n": "2"}, "n", "invalid_type"),
    ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
    ({"max_tokens": 1e300}, "max_tokens", "invalid_type"),
    ({"max_tokens": 10**30}, "max_tokens", "invalid_type"),
    ({"max_tokens": 8192}, "max_tokens", "context_length_exceeded"),
    ({"seed": 2**63}, "seed", "invalid_type"),
    ({"stop": 5}, "stop", "invalid_type"),
    ({"stop": ["a", 5]}, "stop[1]", "invalid_type"),
    ({"stop": [""]}, "stop[0]", "string_below_min_length"),
    ({"stop": ["x"] * 17}, "stop", "array_above_max_length"),
    ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5", "integer_above_max_value"),
    ({"logit_bias": {"999999": 1}}, "logit_bias", "invalid_value"),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({"stream": "yes"}, "stream", "invalid_type"),
    ({"messages": []}, "messages", "empty_array"),
    ({"messages": "hi"}, "messages", "invalid_type"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
    ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
     "messages[0].content[0].type", "invalid_value"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "missing_required_parameter"),
    ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools[0].function.name", "invalid_value"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"functions": []}, "functions", "unsupported_parameter"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
    ({"min_tokens": 5}, "min_tokens", "invalid_value"),
]


@pytest.mark.parametrize("fields, param, code", BAD_FIELDS, ids=lambda value: str(value)[:40])
def test_bad_fields_are_named(server, fields, param, code):
    status, headers, body = server.post("/v1/chat/completions", chat_body(**fields))
    assert status == 400 and headers["content-type"] == "application/json"
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["type"] == "invalid_request_error"
    assert (body["error"]["param"], body["error"]["code"]) == (param, code), body


@pytest.mark.parametrize("fields", [
    {"temperature": None, "stop": None, "n": None, "tools": None, "logprobs": None, "stream": None, "user": None},
    {"some_new_field": {"a": [1]}, "metadata": {"x": "y"}, "store": True},
    {"n": 2.0, "max_tokens": 3.0, "temperature": 2, "top_p": 1e-9, "top_k": -1, "seed": -(2**63)},
    {"stop": [], "tools": [], "logit_bias": {}, "response_format": {"type": "text"}, "tool_choice": "none"},
    {"seed": 2**63 - 1, "logit_bias": {"5": -100, "6": 100}, "presence_penalty": -2, "frequency_penalty": 2},
], ids=str)
def test_good_fields_are_taken(server, fields):
    status, _, body = server.chat(**{"max_tokens": 3, **fields})
    assert status == 200, body
    assert len(body["choices"]) == (fields.get("n") or 1)


@pytest.mark.parametrize("fields, param", [
    ({"suffix": "x"}, "suffix"), ({"best_of": 2}, "best_of"), ({"prompt": []}, "prompt"), ({"prompt": [[]]}, "prompt[0]"),
    ({"prompt": [49152]}, "prompt[0]"), ({"prompt": [-1]}, "prompt[0]"), ({"prompt": ["a", 1]}, "prompt[1]"),
    ({"prompt": None}, "prompt"), ({"logprobs": 21}, "logprobs"), ({"max_tokens": 0}, "max_tokens"),
    ({"prompt": ""}, "prompt"), ({"prompt": "x " * 9000}, "prompt"),
], ids=lambda value: str(value)[:40])
def test_bad_completions(server, fields, param):
    status, _, body = server.post("/v1/completions", {"model": MODEL, "prompt": "x", "max_tokens": 2, **fields})
    assert status == 400 and body["error"]["param"] == param, body


def test_missing_and_unknown_models(server):
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses"):
        body = {"model": "gpt-4", "prompt": "x", "input": "x", **hello()}
        status, _, answer = server.post(path, body)
        assert status == 404 and answer["error"]["code"] == "model_not_found", answer
        del body["model"]
        status, _, answer = server.post(path, body)
        assert status == 400 and answer["error"]["param"] == "model", answer


def test_the_client_library_raises_its_own_errors(server):
    client = server.client()
    with pytest.raises(openai.BadRequestError) as fault:
        client.chat.completions.create(model=MODEL, messages=hello()["messages"], temperature=9)
    assert fault.value.param == "temperature" and fault.value.code == "integer_above_max_value"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nope", messages=hello()["messages"])


@pytest.mark.parametrize("body", [
    b"", b"{", b"null", b"[]", b'"x"', b"{]", b'{"a":1', b'{"model": "\xff\xfe"}', b'{"n": 1e999}', b'{"n": NaN}',
    b"[" * 100000, b'{"a":' * 5000 + b"1" + b"}" * 5000, b'{"messages":' + b"[" * 70 + b"]" * 70 + b"}",
    b"{" + b",".join(b'"k%d":1' % i for i in range(5000)) + b"}", b"\x00" * 10, b'{"model":"a\\u0000b"}',
    b'{"x": "\\ud800"}',
], ids=lambda body: body[:20].hex())
def test_bodies_that_are_no_request(server, body):
    for path in ("/v1/chat/completions", "/tokenize"):
        status, _, answer = server.post(path, body)
        assert status in (400, 404), (status, answer)
        assert answer["error"]["message"]


def test_text_of_any_kind_is_taken(server):
    for text in ("\x00\x01", "\U0001f600" * 100, "<|im_end|><|im_start|>system", "\u202e", " " * 1000, "\ufffd\uffff"):
        status, _, answer = server.chat(messages=hello(text)["messages"], max_tokens=2)
        assert status == 200, answer
    # Half a surrogate pair is no text.
    assert server.request("POST", "/v1/chat/completions",
                          b'{"model":"%s","max_tokens":2,"messages":[{"role":"user","content":"\\ud83d"}]}'
                          % MODEL.encode())[0] == 400


# HTTP ------------------------------------------------------------------------------------------------------------

def test_methods_and_paths(server):
    for method, path, allow in (("GET", "/v1/chat/completions", "POST"), ("DELETE", "/v1/models", "GET, HEAD"),
                                ("PUT", "/health", "GET, HEAD"), ("OPTIONS", "/v1/completions", "POST")):
        status, headers, body = server.request(method, path)
        assert status == 405 and headers["allow"] == allow, (method, path)
        assert json.loads(body)["error"]["code"] == "method_not_allowed"
    for path in ("/nope", "/v1", "/v1/chat", "/v1/chat/completions/", "//health", "/health/../health", "/%00"):
        status, _, body = server.get(path)
        assert status == 404 and json.loads(body)["error"]["type"] == "invalid_request_error", path
    status, headers, body = server.request("HEAD", "/health")
    assert status == 200 and body == "" and int(headers["content-length"]) > 0
    assert server.get("/health?probe=1")[0] == 200


CHAT = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
MALFORMED = [
    # Requests that two programs in a row may read differently.
    (CHAT + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (CHAT + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", 400),
    (CHAT + "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", 400),
    (CHAT + "Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd", 400),
    (CHAT + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    (CHAT + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    (CHAT + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    (CHAT + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    (CHAT + "Content-Length: +4\r\n\r\nabcd", 400),
    (CHAT + "Content-Length: -4\r\n\r\nabcd", 400),
    (CHAT + "Content-Length: 0x4\r\n\r\nabcd", 400),
    (CHAT + "Content-Length: 99999999999999999999\r\n\r\nabcd", 400),
    (CHAT + "Content-Length: 4, 4\r\n\r\nabcd", 400),
    ("POST /v1/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    # No HTTP.
    ("GET / HTTP/1.1\r\n\r\n", 400),  # without Host
    ("GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ("GET  /health HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET /health HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    ("GET /health HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n", 400),
    ("GET /health HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", 400),
    ("GET http://other/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS?\r\n\r\n", 400),
    ("hello\r\n\r\n", 400),
    # Too much.
    ("GET /health HTTP/1.1\r\nHost: a\r\nX: " + "a" * 70000 + "\r\n\r\n", 431),
    ("GET /" + "a" * 70000 + " HTTP/1.1\r\nHost: a\r\n\r\n", 431),
    (CHAT + f"Content-Length: {2 << 20}\r\n\r\n", 413),
    (CHAT + "Transfer-Encoding: chunked\r\n\r\n" + "100000\r\n" + "a" * (1 << 20) + "\r\n10\r\n" + "a" * 16, 413),
    (CHAT + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    (CHAT + "Transfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
    ("GET /health HTTP/1.1\r\nHost: a\r\nExpect: magic\r\n\r\n", 417),
]


@pytest.mark.parametrize("text, status", MALFORMED, ids=lambda value: repr(value)[-50:])
def test_malformed_http(server, text, status):
    answer = server.send_raw(text.encode("latin-1"))
    assert status_of(answer) == status, answer[:300]
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    assert json.loads(body)["error"]["message"]
    assert b"HTTP/1.1" not in body  # one answer, not two


def test_half_requests_are_given_up(server):
    before = open_files(server.process.pid)
    for part in (b"", b"POST", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Le",
                 raw_post("/v1/chat/completions", chat_body())[:-10]):
        with server.connect() as raw:
            raw.sendall(part)
    server.wait_until(lambda: open_files(server.process.pid) <= before, what="descriptors come back")


def test_slow_heads_and_bodies_time_out(server):
    with server.connect() as raw:  # one byte at a time keeps nobody here
        start = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for byte in b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"a" * 100:
                raw.sendall(bytes([byte]))
                time.sleep(0.05)
                if time.monotonic() - start > 5:
                    break
        answer = read_all(raw)
        assert (status_of(answer) in (408, None)) and time.monotonic() - start < 4
    start = time.monotonic()
    answer = server.send_raw(b"GET /health HTTP/1.1\r\nHost:")
    assert status_of(answer) == 408 and time.monotonic() - start < 6
    answer = server.send_raw(raw_post("/v1/chat/completions", chat_body())[:-10])
    assert status_of(answer) == 408 and b"request_timeout" in answer


def test_keep_alive_and_pipelines(server):
    one = raw_post("/v1/chat/completions", chat_body())
    get = b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = server.send_raw(get + one + get + one + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 5 and answer.count(b"chat.completion") == 2
    assert answer.count(b"connection: close") == 1
    old = server.send_raw(b"GET /live HTTP/1.0\r\n\r\n")
    assert status_of(old) == 200 and b"connection: close" in old


def test_chunked_bodies_and_100_continue(server):
    body = json.dumps(chat_body()).encode()
    pieces = b"".join(b"%x\r\n%s\r\n" % (1, body[i:i + 1]) for i in range(len(body)))
    answer = server.send_raw(CHAT.encode() + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n")
    assert status_of(answer) == 200
    with server.connect() as raw:
        raw.sendall(CHAT.encode() + b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert raw.recv(100).startswith(b"HTTP/1.1 100 Continue")
        raw.sendall(body)
        assert status_of(read_all(raw)) == 200


def test_a_refusal_before_the_body_is_read_in_full(server):
    """The client still sends when the answer comes; closing must not take it away."""
    answer = server.send_raw(b"POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n" + b"a" * 900000)
    assert status_of(answer) == 404 and b"unknown_url" in answer


def test_streams_for_http_1_0_end_with_the_connection(server):
    body = json.dumps(chat_body(stream=True)).encode()
    answer = server.send_raw(b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert b"chunked" not in answer and answer.endswith(b"data: [DONE]\n\n")


def test_request_ids(server):
    sent = server.get("/live", headers={"X-Request-Id": "abc-123"})[1]["x-request-id"]
    assert sent == "abc-123"
    made = [server.get("/live")[1]["x-request-id"] for _ in range(2)]
    assert made[0] != made[1] and len(made[0]) == 32
    assert server.get("/live", headers={"X-Request-Id": "a b"})[1]["x-request-id"] != "a b"
    assert server.get("/nope", headers={"X-Request-Id": "abc"})[1]["x-request-id"] == "abc"
    assert server.chat(max_tokens=1)[2]["id"].startswith("chatcmpl-")


def test_the_document_says_what_is_served(server):
    document = json.loads(server.get("/openapi.json")[2])
    for path, methods in document["paths"].items():
        for method in methods:
            url = path.replace("{model}", MODEL)
            status = server.request(method.upper(), url, {} if method == "post" else None)[0]
            assert status in (200, 400), (method, url, status)
    chat = document["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    assert chat["temperature"] == {"type": ["number", "null"], "minimum": 0, "maximum": 2, "default": 1,
                                   "description": "0 = always the likeliest token"}
    assert chat["model"]["enum"] == [MODEL] and chat["max_tokens"]["maximum"] == 8192
    assert "security" not in document  # no key is asked for
    assert '"$context' not in json.dumps(document) and '"$m' not in json.dumps(document)


# Keys, CORS, logs, configuration ---------------------------------------------------------------------------------

def test_keys_cors_and_json_logs(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("second-key\nthird-key\n")
    log = tmp_path / "log"
    config = tmp_path / "weft.yaml"
    config.write_text(f"mock: true\napi-key-file: {keys}\ncors-origin: [https://chat.example]\n"
                      f"log-format: json\nlog-file: {log}\nserved-model-name: [small, smaller]\nmax-model-len: 100\n")
    with Server("--config", config, "--api-key", "first-key", "--max-model-len", 200) as server:
        for header in (None, "Bearer", "Bearer ", "Bearer wrong", "Basic first-key", "first-key", "Bearer first-ke",
                       "Bearer first-key1", "Bearer "):
            headers = {"Authorization": header} if header is not None else {}
            for path in ("/v1/models", "/metrics", "/stats", "/openapi.json"):
                status, answer_headers, body = server.get(path, headers=headers)
                assert status == 401 and answer_headers["www-authenticate"] == "Bearer", (header, path)
                assert json.loads(body)["error"]["code"] == "invalid_api_key"
        assert server.get("/health")[0] == 200 and server.get("/live")[0] == 200
        document = json.loads(server.get("/openapi.json", headers={"Authorization": "Bearer first-key"})[2])
        assert document["security"] == [{"key": []}] and document["paths"]["/health"]["get"]["security"] == []
        for key in ("first-key", "second-key", "third-key"):
            assert [m.id for m in server.client(api_key=key).models.list().data] == ["small", "smaller"]
        with pytest.raises(openai.AuthenticationError):
            server.client(api_key="nope").models.list()
        client = server.client(api_key="first-key")
        answer = client.chat.completions.create(model="smaller", max_tokens=2, **hello())
        assert answer.model == "smaller"
        assert client.models.retrieve("small").model_extra["max_model_len"] == 200  # the flag goes before the file
        # CORS
        headers = {"Origin": "https://chat.example", "Authorization": "Bearer first-key"}
        assert server.get("/v1/models", headers=headers)[1]["access-control-allow-origin"] == "https://chat.example"
        other = {**headers, "Origin": "https://evil.example"}
        assert server.get("/v1/models", headers=other)[1]["access-control-allow-origin"] is None
        preflight = server.request("OPTIONS", "/v1/chat/completions",
                                   headers={"Origin": "https://chat.example", "Access-Control-Request-Method": "POST"})
        assert preflight[0] == 204 and "POST" in preflight[1]["access-control-allow-methods"]
        server.get("/live", headers={"X-Request-Id": 'quote"d'})
        assert server.stop() == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    access = [line for line in lines if line.get("message") == "request"]
    assert {"time", "level", "request_id", "client", "method", "path", "status", "bytes", "duration_ms"} <= set(access[0])
    assert any(line["request_id"] == 'quote"d' and line["status"] == 200 for line in access)
    assert "first-key" not in log.read_text()


def test_no_cors_unless_asked(server):
    assert server.get("/live", headers={"Origin": "https://x"})[1]["access-control-allow-origin"] is None


def test_a_full_disk_loses_only_the_log():
    with Server("--mock", "--log-file", "/dev/full") as server:
        for _ in range(20):
            assert server.chat(max_tokens=2)[0] == 200
        assert server.stop() == 0


@pytest.mark.parametrize("yaml, says", [
    ("no-such-flag: 1\n", ["line 1", "no-such-flag"]), ("port: many\n", ["line 1", "port"]), ("- a\n", ["weft.yaml"]),
    ("host: 127.0.0.1\nport: 70000\n", ["line 2", "port"]), ("port: [\n", ["weft.yaml"])])
def test_bad_configuration(tmp_path, yaml, says):
    config = tmp_path / "weft.yaml"
    config.write_text(yaml)
    fails("serve", "--model", MODEL, "--mock", "--config", config, says=says)


def test_bad_flags_and_ports(server):
    fails("serve", says=["--model"])
    fails("serve", "--model", MODEL, "--mock", "--port", server.port, says=["cannot listen", str(server.port)])
    fails("serve", "--model", "/no/such/model", says=["/no/such/model"])
    fails("serve", "--model", MODEL, "--log-file", "/proc/no/log", says=["/proc/no/log"])
    fails("serve", "--model", MODEL, "--tp", 64, "--port", 0, says=["--tp 64"])


# Load ------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def small():
    """Few places, steps of 5 ms."""
    with Server("--mock", "--mock-step-us", 5000, "--max-running-requests", 4, "--max-queued-requests", 4,
                "--max-unsent-bytes", 8192, "--drain-timeout", 1) as running:
        yield running


def test_overload_is_answered_at_once(small):
    """Ten times what there is room for: 429 with Retry-After before any event, and every answer comes."""
    results, lock = [], threading.Lock()

    def one():
        start = time.monotonic()
        status, headers, text = small.request("POST", "/v1/chat/completions",
                                              chat_body(max_tokens=50, stream=True, ignore_eos=True))
        with lock:
            results.append((status, headers, text, time.monotonic() - start))

    threads = [threading.Thread(target=one) for _ in range(80)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(results) == 80
    refused = [r for r in results if r[0] == 429]
    served = [r for r in results if r[0] == 200]
    assert len(refused) + len(served) == 80 and len(served) >= 8 and len(refused) >= 40
    for _, headers, text, _ in refused:
        assert int(headers["retry-after"]) >= 1
        assert json.loads(text)["error"]["code"] == "rate_limit_exceeded"
    for _, _, text, _ in served:
        assert text.endswith("data: [DONE]\n\n")
        assert sum(len(e["choices"][0]["delta"].get("content") or "") > 0 for e in events(text)[:-1]) > 0
    assert small.chat(max_tokens=1)[0] == 200
    small.wait_until(lambda: small.stats()["requests_open"] == 0, what="all ended")


def test_a_client_that_leaves_is_forgotten(small):
    for stream in (True, False):
        with small.connect() as raw:
            raw.sendall(raw_post("/v1/chat/completions", chat_body(max_tokens=4000, stream=stream, ignore_eos=True)))
            small.wait_until(lambda: small.stats()["running"] == 1, what="it runs")
        small.wait_until(lambda: small.stats()["requests_open"] == 0, timeout=2, what="it is aborted")
    assert small.stats()["kv_pages_used"] == 0


def test_a_slow_reader_is_cut_off_and_harms_nobody():
    with Server("--mock", "--mock-step-us", 20000) as server, server.connect(receive_buffer=2048) as raw:
        raw.sendall(raw_post("/v1/chat/completions",
                             chat_body(max_tokens=6000, stream=True, ignore_eos=True, logprobs=True, top_logprobs=20)))
        server.wait_until(lambda: server.stats()["requests_open"] == 1, what="it runs")
        received = 0
        begin = time.monotonic()
        while server.stats()["requests_open"] and time.monotonic() < begin + 30:
            start = time.monotonic()
            if start - begin >= received:
                received += len(raw.recv(1))  # one byte a second
            assert server.chat(max_tokens=2)[0] == 200
            assert time.monotonic() - start < 2
        assert server.stats()["requests_open"] == 0 and received > 2
        assert b"[DONE]" not in read_all(raw)
        assert server.stats()["kv_pages_used"] == 0


def test_termination_during_streams():
    with Server("--mock", "--mock-step-us", 20000, "--drain-timeout", 2) as server:
        answers = {}

        def one(name, max_tokens):
            with server.connect() as raw:
                raw.sendall(raw_post("/v1/chat/completions",
                                     chat_body(max_tokens=max_tokens, stream=True, ignore_eos=True)))
                answers[name] = read_all(raw)

        threads = [threading.Thread(target=one, args=args) for args in (("short", 50), ("long", 8000))]
        for thread in threads:
            thread.start()
        server.wait_until(lambda: server.stats()["running"] == 2, what="both run")
        server.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 2
        while server.get("/health")[0] == 200 and time.monotonic() < end:
            time.sleep(0.02)
        status, headers, body = server.get("/health")
        assert status == 503 and "shutting down" in body
        assert server.get("/live")[0] == 200
        status, _, body = server.chat()
        assert status == 503 and body["error"]["type"] == "service_unavailable_error"
        assert server.process.wait(10) == 0
        for thread in threads:
            thread.join(10)
    assert b"data: [DONE]" in answers["short"]
    assert b"data: [DONE]" not in answers["long"]
    assert b'"code":"shutting_down"' in answers["long"] and answers["long"].endswith(b"0\r\n\r\n")


def test_a_request_has_a_deadline():
    with Server("--mock", "--mock-step-us", 20000, "--request-timeout", 0.5) as server:
        status, _, body = server.chat(max_tokens=4000, ignore_eos=True)
        assert status == 504 and body["error"]["code"] == "deadline_exceeded"
        text = server.request("POST", "/v1/chat/completions",
                              chat_body(max_tokens=4000, ignore_eos=True, stream=True))[2]
        assert events(text)[-1]["error"]["code"] == "deadline_exceeded"
        with pytest.raises(openai.APIError):
            list(server.client().chat.completions.create(model=MODEL, max_tokens=4000, stream=True,
                                                         extra_body={"ignore_eos": True}, **hello()))


def test_connections_are_bounded():
    with Server("--mock", "--max-connections", 5) as server:
        kept = [server.connect() for _ in range(5)]
        server.wait_until(lambda: open_files(server.process.pid) > 10)
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as extra:
            assert extra.recv(1) == b""
        for raw in kept:
            raw.close()
        time.sleep(0.3)
        assert server.get("/live")[0] == 200
