"""A stand-in for `weft serve` that says what a test of the page needs: hostile answers, slow ones, failures."""
import http.server
import json
import math
import pathlib
import re
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8",
         ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
# As src/serve/page.cc sends it.
POLICY = re.search(r'kPolicy\[\] =((?:\s*"[^"]*")+)', (ROOT / "src/serve/page.cc").read_text())[1]
POLICY = "".join(re.findall(r'"([^"]*)"', POLICY))

ESSAY = """## Threads

A *warp* is held, a **weft** is woven & drawn; see [the loom](https://example.org/loom) for more.

1. Set up the warp
2. Throw the `shuttle`

| thread | moves |
|---|---|
| warp | no |
| weft | yes |

```python
for row in cloth:
    row.beat()  # firmly
```

> It is a "craft" — naïve at first.
"""

HOSTILE = """<script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">

[click](javascript:window.hacked=3) [data](data:text/html,<script>window.hacked=4</script>) [ok](https://example.org)

![pixel](http://127.0.0.1:9/pixel.png)

<svg onload="window.hacked = 5"></svg><iframe srcdoc="<script>parent.hacked = 6</script>"></iframe>
<style>body { display: none }</style> <form action="/v1/models"><input name=q></form>

```html"onmouseover="window.hacked=7
<b onclick="window.hacked = 8">bold</b>
```

<a href="x" onmouseover="window.hacked = 9">link</a> &lt;script&gt; <details open ontoggle="window.hacked = 10">
"""


def pieces(text):
    """The text cut as tokenizers cut it: words with the space before them; every second long word in two."""
    words = re.findall(r" ?\w+| ?[^\w\s]+|\s+", text)
    return [part for i, word in enumerate(words)
            for part in ([word[:4], word[4:]] if len(word) > 6 and i % 2 else [word])]


def entry(token, p, others=()):
    def one(text, p):
        return {"token": text, "logprob": math.log(p), "bytes": list(text.encode())}
    top = sorted([one(token, p), *(one(text, q) for text, q in others)], key=lambda each: -each["logprob"])
    return {**one(token, p), "top_logprobs": top}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body, content_type="application/json", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        headers = {"Content-Type": content_type, "Content-Length": len(body), **headers}
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def fail(self, status, message, **fields):
        self.answer(status, {"error": {"message": message, "type": "invalid_request_error", "param": None, **fields}})

    def allowed(self):
        key = self.server.key
        if key is None or self.headers.get("Authorization") == f"Bearer {key}":
            return True
        self.fail(401, "The API key is missing or wrong.")
        return False

    def parse_request(self):
        if not super().parse_request():
            return False
        self.close_connection = self.close_connection or self.server.gone
        return not self.server.gone

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/" or path.startswith("/page/"):
            file = ROOT / "web" / ("index.html" if path == "/" else path.removeprefix("/page/"))
            if not file.is_file():
                return self.fail(404, f"There is no {path}")
            return self.answer(200, file.read_bytes(), TYPES[file.suffix],
                               **{"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"})
        if not self.allowed():
            return None
        if path == "/v1/models":
            return self.answer(200, {"object": "list", "data": [{"id": name} for name in self.server.models]})
        if path == "/stats":
            return self.answer(200, self.server.stats())
        return self.fail(404, f"There is no {path}")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.allowed():
            return
        self.server.requests.append(body)
        asked = body["messages"][-1]["content"]
        if asked == "refuse":
            self.fail(400, "temperature must be at most 2", param="temperature")
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            self.stream(asked)
        except (BrokenPipeError, ConnectionResetError):
            self.server.left.set()

    def event(self, value):
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
        self.wfile.flush()

    def chunk(self, delta=None, logprobs=None, finish=None, **more):
        self.event({"object": "chat.completion.chunk", "choices": [
            {"index": 0, "delta": delta or {}, "logprobs": logprobs, "finish_reason": finish}], **more})

    def stream(self, asked):
        self.chunk({"role": "assistant", "content": ""})
        if asked == "think":
            for piece in pieces("Let me weave. "):
                self.chunk({"reasoning_content": piece}, {"content": [entry(piece, 0.5)]})
        text = {"hostile": HOSTILE, "slow": "again and " * 400, "essay": ESSAY}.get(asked, f"You said: {asked}")
        tokens = pieces(text)
        for i, token in enumerate(tokens):
            if asked in ("fail", "break") and i == 3:
                if asked == "fail":
                    self.event({"error": {"message": "rank 1 was lost: exit status 9", "type": "server_error"}})
                return
            p = 0.97 if i % 3 else 0.04 + 0.9 * ((i * 37) % 100) / 100
            self.chunk({"content": token}, {"content": [entry(token, p, [(" other", (1 - p) * 0.6), ("\n", (1 - p) / 5)])]})
            time.sleep(0.05 if asked == "slow" else self.server.pause)
        self.chunk(finish="stop")
        self.event({"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": len(tokens), "total_tokens": 40 + len(tokens),
                                             "prompt_tokens_details": {"cached_tokens": 16}}})
        self.wfile.write(b"data: [DONE]\n\n")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.key, self.models, self.pause = None, ["mock-1b"], 0.001
        self.gone = False              # connections that are open get no answer any more
        self.requests = []            # bodies of POSTs, in order
        self.left = threading.Event()  # a client left its stream
        self.health = ""  # or what is wrong
        self.began = time.monotonic()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/"

    def stats(self):
        t = time.monotonic() - self.began
        running = int(6 + 5 * math.sin(t / 5) + 2 * math.sin(t * 1.3))
        return {"model": self.models[0], "ready": self.health == "", "message": self.health, "rank_pids": [4001, 4002],
                "requests_open": running, "running": running, "waiting": max(0, running - 8), "queued_prompt_tokens": 0,
                "kv_pages_total": 2048, "kv_pages_used": 90 * running, "kv_pages_cached": 700, "page_tokens": 16,
                "prefix_queries": int(9000 * t), "prefix_hits": int(5400 * t), "prompt_tokens": int(90 * t + 300 * math.sin(t / 9) + 300),
                "generation_tokens": int(140 * t + 200 * math.sin(t / 4) + 200), "preemptions": 3, "steps": int(20 * t), "step_rows": int(140 * t),
                "step_tokens": int(300 * t), "drafted_tokens": 0, "accepted_tokens": 0, "finished_stop": int(t), "finished_length": 2,
                "finished_aborted": 1, "finished_error": 0, "refused": 0, "step_seconds": 0.9 * t, "schedule_seconds": 0.01 * t,
                "last_step_seconds": 0.0452, "rank_step_seconds": [0.0431, 0.0452], "seconds_since_step": 0.01}


if __name__ == "__main__":  # to work on the page: python tests/page_mock.py [port]
    import sys
    server = Server(int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
    server.pause = 0.03
    print(f"the page with a mock behind it: {server.url}")
    threading.Event().wait()
