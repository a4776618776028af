#!/usr/bin/env python3
"""Figures of `weft serve` alone. Usage: bench/serve_figures.py prefix|batch|streams [--json FILE] (each has --help)

prefix   the second request with the same prompt of 1,000 tokens against the first: time to first token
batch    16 clients of the server against `weft bench generate` with a batch of 16, in turns
streams  5,000 streams at once of 100 tokens from the mock executor, the server on one core
"""
import argparse
import http.client
import json
import os
import random
import subprocess
import time

from servers import WEFT, cpu_seconds, memory_bytes, origin, save, spread, weft_server


def first_text_ms(server, body):
    """Milliseconds from sending a streamed completion to its first text; reads it to the end."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=120)
    connection.connect()
    start = time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(body | {"stream": True}),
                       {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(f"HTTP {answer.status}: {answer.read().decode()}")
    seen = None
    for line in answer:
        if seen is None and line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["text"]:
            seen = time.perf_counter()
    connection.close()
    if seen is None:
        raise SystemExit("the answer has no text")
    return (seen - start) * 1000


def prefix(flags):
    rng = random.Random(flags.seed)
    result = origin()
    pairs = []
    with weft_server(flags.model, "--threads", flags.threads) as server:
        result["server"] = server.command
        model = json.loads(server.get("/v1/models"))["data"][0]["id"]
        for number in range(flags.samples + 1):
            body = {"model": model, "prompt": [rng.randrange(flags.vocab) for _ in range(flags.tokens)],
                    "max_tokens": 8, "temperature": 0, "ignore_eos": True}
            pair = first_text_ms(server, body), first_text_ms(server, body)
            if number > 0:  # the first warms up
                pairs.append(pair)
    result["prompt_tokens"] = flags.tokens
    result["first_ms"] = spread([first for first, _ in pairs])
    result["second_ms"] = spread([second for _, second in pairs])
    result["second_of_first"] = spread([second / first for first, second in pairs])
    return result


def batch(flags):
    result = origin()
    rows = []
    bare = [WEFT, "bench", "generate", "--model", flags.model, "--threads", str(flags.threads), "--batch",
            str(flags.clients), "--prompt-tokens", str(flags.tokens), "--gen-len", str(flags.tokens), "--samples", "2",
            "--json"]
    result["bare"] = " ".join(bare)
    with weft_server(flags.model, "--threads", flags.threads) as server:
        result["server"] = server.command
        for number in range(flags.samples):
            report = server.load("--vocab", flags.vocab, "--input-len", flags.tokens, "--output-len", flags.tokens,
                                 "--concurrency", flags.clients, "--requests", 3 * flags.clients, "--seed", number)
            done = subprocess.run(bare, capture_output=True, text=True, timeout=600, check=True)
            alone = json.loads(done.stdout)
            rows.append({"server_tokens_per_s": report["output_tokens_per_s"],
                         "bare_tokens_per_s": alone["tokens_per_s"]["median"], "failed": report["failed"]})
            print(rows[-1], flush=True)
    result["rounds"] = rows
    result["server_of_bare"] = spread([row["server_tokens_per_s"] / row["bare_tokens_per_s"] for row in rows])
    return result


def streams(flags):
    result = origin()
    arguments = ["--mock", "--mock-step-us", flags.step_us, "--max-running-requests", flags.streams,
                 "--max-queued-requests", flags.streams, "--max-queued-tokens", 10**9,
                 "--max-step-tokens", 2 * flags.streams, "--kv-cache-tokens", 128 * flags.streams,
                 "--max-connections", 2 * flags.streams]
    with weft_server(flags.model, *arguments, before=("taskset", "-c", "0")) as server:
        result["server"] = server.command
        idle_bytes = memory_bytes(server.pid)
        used = cpu_seconds(server.pid)
        report = server.load("--input-len", 16, "--output-len", flags.tokens, "--concurrency", flags.streams,
                             "--requests", flags.streams, "--ramp", flags.ramp,
                             before=("taskset", "-c", str(max(os.sched_getaffinity(0)))))
        used = cpu_seconds(server.pid) - used
        result |= {"streams": flags.streams, "tokens": flags.tokens, "completed": report["completed"],
                   "failed": report["failed"], "errors": report["errors"], "output_tokens": report["output_tokens"],
                   "gap_ms": report["itl_ms"], "ttft_ms": report["ttft_ms"], "duration_s": report["duration_s"],
                   "text_events": report["text_events"], "rss_idle_mb": idle_bytes / 1e6,
                   "rss_peak_mb": memory_bytes(server.pid, "VmHWM") / 1e6, "server_cpu_s": used,
                   "server_cpu_us_per_token": used / max(1, report["output_tokens"]) * 1e6}
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for function in (prefix, batch, streams):
        command = commands.add_parser(function.__name__)
        command.set_defaults(function=function)
        command.add_argument("--model", default="smollm2-135m")
        command.add_argument("--json", help="also write the result here")
        if function is streams:
            command.add_argument("--streams", type=int, default=5000)
            command.add_argument("--tokens", type=int, default=100)
            command.add_argument("--step-us", type=int, default=150000, help="time of a mock step")
            command.add_argument("--ramp", type=float, default=3, help="seconds over which the streams start")
            continue
        command.add_argument("--vocab", type=int, default=49152, help="prompts are random token ids below this")
        command.add_argument("--threads", type=int, default=2)
        command.add_argument("--samples", type=int, default=5)
        command.add_argument("--tokens", type=int, default=1000 if function is prefix else 64)
        if function is prefix:
            command.add_argument("--seed", type=int, default=1)
        else:
            command.add_argument("--clients", type=int, default=16)
    flags = parser.parse_args()
    save(flags.json, flags.function(flags))


if __name__ == "__main__":
    main()
