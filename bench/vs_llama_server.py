#!/usr/bin/env python3
"""`weft serve` and llama.cpp's `llama-server` under the same load, in turns: the same GGUF, threads, prompts and client.

Usage: bench/vs_llama_server.py --llama-server PATH --model FILE.gguf [--rounds 5] [--json bench/results/NAME.json]

Both servers stay up; a round loads one and then the other, the next round in the other order. Prompts are the same
random token ids for both (a new seed each round, so no prefix cache helps), answers have exactly the wanted length.
"""
import argparse
import subprocess

from servers import cpu_seconds, free_port, origin, running, save, spread, weft_server


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", required=True)
    parser.add_argument("--model", required=True, help="a GGUF file that both read")
    parser.add_argument("--vocab", type=int, default=49152, help="prompts are token ids below this")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=32, help="in each half of a round")
    parser.add_argument("--tokens", type=int, default=64, help="of each prompt and each answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--weft-flag", action="append", default=[], help="for weft serve, for instance --weft-flag=--tp=2")
    parser.add_argument("--json", help="also write the result here")
    flags = parser.parse_args()

    result = origin()
    llama_port = free_port()
    slots = flags.clients
    llama = [flags.llama_server, "--model", flags.model, "--port", llama_port, "--parallel", slots, "--threads",
             flags.threads, "--threads-batch", flags.threads, "--ctx-size", slots * 4 * flags.tokens, "--cache-ram", 0]
    with weft_server(flags.model, "--threads", flags.threads, *flags.weft_flag) as weft, \
            running(llama, llama_port) as rival:
        version = subprocess.run([flags.llama_server, "--version"], capture_output=True, text=True)
        result |= {"weft": weft.command, "llama_server": rival.command,
                   "llama_version": (version.stderr + version.stdout).strip().splitlines()[:2]}

        def measure(server, seed):
            return server.load("--vocab", flags.vocab, "--input-len", flags.tokens, "--output-len", flags.tokens,
                               "--concurrency", flags.clients, "--requests", flags.requests, "--seed", seed)

        for server in (weft, rival):  # first use of pages and code
            server.load("--vocab", flags.vocab, "--input-len", flags.tokens, "--output-len", 8, "--requests",
                        flags.clients, "--concurrency", flags.clients, "--seed", 10**6)
        rounds = []
        for number in range(flags.rounds):
            order = [("weft", weft), ("llama", rival)]
            row = {}
            for name, server in order if number % 2 == 0 else reversed(order):
                other = rival if server is weft else weft
                idle = cpu_seconds(other.pid)
                report = measure(server, number)
                if report["failed"] or report["output_tokens"] != flags.requests * flags.tokens:
                    raise SystemExit(f"{name}: {report}")
                row[name] = {"output_tokens_per_s": report["output_tokens_per_s"],
                             "ttft_p50_ms": report["ttft_ms"]["p50"], "ttft_p99_ms": report["ttft_ms"]["p99"],
                             "tpot_p50_ms": report["tpot_ms"]["p50"], "duration_s": report["duration_s"],
                             "cpu_s_of_the_other": round(cpu_seconds(other.pid) - idle, 3)}
            row["ratio"] = row["weft"]["output_tokens_per_s"] / row["llama"]["output_tokens_per_s"]
            print(f"round {number}: weft {row['weft']['output_tokens_per_s']:.1f}, llama-server "
                  f"{row['llama']['output_tokens_per_s']:.1f} tokens/s, ratio {row['ratio']:.2f}", flush=True)
            rounds.append(row)
    result["rounds"] = rounds
    result["ratio"] = spread([row["ratio"] for row in rounds])
    for name in ("weft", "llama"):
        result[f"{name}_output_tokens_per_s"] = spread([row[name]["output_tokens_per_s"] for row in rounds])
        result[f"{name}_ttft_p50_ms"] = spread([row[name]["ttft_p50_ms"] for row in rounds])
    save(flags.json, result)


if __name__ == "__main__":
    main()
