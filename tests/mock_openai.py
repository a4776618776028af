"""A tiny OpenAI server with scripted delays and faults. The model's name in a request picks what happens:

plain         tokens "w0 ", "w1 " ... with a usage event; ends by [DONE]
no-usage      the same without usage
no-ignore-eos 400 where ignore_eos is sent
strict        400 where ignore_eos or stream_options is sent
crlf          lines end in CR LF, a comment and an `event:` field stand between events, 3 bytes a write
cut           the connection breaks after the second token
error         an error event after the second token
json          answers without a stream
busy          429 to every request after the first
silent        takes the request and never answers
"""
import asyncio
import contextlib
import json
import threading


class MockServer:
    def __init__(self, model="plain", first_s=0.0, gap_s=0.0, key=""):
        self.model, self.first_s, self.gap_s, self.key = model, first_s, gap_s, key
        self.requests = []  # (path, headers, body) of every POST
        self.running = self.most_running = self.connections = 0
        self.gone = 0  # streams whose client left early

    async def serve(self, reader, writer):
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, path, _ = head[0].split(" ")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if not await self.answer(writer, method, path, headers, body):
                    break
        writer.close()

    async def answer(self, writer, method, path, headers, body):
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            return await self.whole(writer, 401, {"error": {"message": "wrong key"}})
        if (method, path) == ("GET", "/v1/models"):
            return await self.whole(writer, 200, {"data": [{"id": self.model}]})
        request = json.loads(body)
        self.requests.append((path, headers, request))
        refused = {"no-ignore-eos": ["ignore_eos"], "strict": ["ignore_eos", "stream_options"]}.get(self.model, [])
        for field in refused:
            if field in request:
                return await self.whole(writer, 400, {"error": {"message": f"unknown field {field}"}})
        if self.model == "busy" and len(self.requests) > 1:
            return await self.whole(writer, 429, {"error": {"message": "too many requests"}})
        if self.model == "json":
            return await self.whole(writer, 200, {"choices": [{"text": "all at once"}]})
        if self.model == "silent":
            await asyncio.sleep(60)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self.stream(writer, path.endswith("chat/completions"), request)
        except ConnectionError:
            self.gone += 1
            return False
        finally:
            self.running -= 1

    async def whole(self, writer, status, body):
        data = json.dumps(body).encode()
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
                     .encode() + data)
        await writer.drain()
        return True

    async def stream(self, writer, chat, request):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        if chat:
            await self.event(writer, {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        count = request["max_tokens"]
        for i in range(count):
            await asyncio.sleep(self.gap_s if i else self.first_s)
            if writer.is_closing():
                raise ConnectionResetError
            if i == 2 and self.model == "cut":
                return False
            if i == 2 and self.model == "error":
                await self.event(writer, {"error": {"message": "rank 1 is gone"}})
                return False
            text, reason = f"w{i} ", "length" if i + 1 == count else None
            choice = {"delta": {"content": text}} if chat else {"text": text}
            await self.event(writer, {"choices": [choice | {"finish_reason": reason}]})
        if self.model != "no-usage" and "stream_options" in request:
            await self.event(writer, {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": count}})
        await self.send(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def event(self, writer, event):
        data = b"data: " + json.dumps(event).encode() + b"\n\n"
        await self.send(writer, b": a comment\nevent: chunk\n" + data if self.model == "crlf" else data)

    async def send(self, writer, data):
        step = len(data)
        if self.model == "crlf":
            data, step = data.replace(b"\n", b"\r\n"), 3
        for start in range(0, len(data), step):
            part = data[start:start + step]
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            await writer.drain()


@contextlib.contextmanager
def mock_server(*args, **kwargs):
    """(URL, MockServer) of a server that runs on a thread of its own."""
    mock = MockServer(*args, **kwargs)
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(mock.serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", mock
    finally:
        async def end():
            server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
