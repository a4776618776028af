#!/usr/bin/env python3
"""weft beside llama.cpp on CPU: same GGUF, same number of threads, taking turns within seconds in one run.

    bench/vs_llama_cpp.py [--model NAME_OR_FILE] [--threads 2,1] [--rounds 15] [--json FILE]

The rival is PyPI's llama-cpp-python, built for this processor (GGML_NATIVE) in a throw-away virtual environment; --venv
keeps that environment, or takes one that exists. Both sides are processes that hold the model and take one sample when
told to, so that a round of all of them lasts about a second and a busy machine disturbs both. Ratios are of neighbouring
samples: above 1 means that weft is faster (or smaller). Cold starts and memory are measured on fresh processes.
"""
import argparse
import ctypes
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROMPT = [(i * 7919 + 13) % 40000 for i in range(512)]  # any ids of the vocabulary: neither side looks at the text
DECODE_TOKENS = 8
COLD_PROMPT = 16


# --- the rival's process -------------------------------------------------------------------------------------------

class Rival:
    """llama.cpp through its C interface: no sampling, no Python objects in the timed calls."""

    def __init__(self, model, threads):
        import llama_cpp
        self.lib = llama_cpp
        quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        self.quiet = quiet  # must live as long as it may be called
        llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        start = time.perf_counter()
        self.model = llama_cpp.llama_model_load_from_file(model.encode(), llama_cpp.llama_model_default_params())
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = 1024, 512, 512
        options.n_threads = options.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        if not self.context:
            sys.exit(f"llama.cpp cannot load {model}")
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.load_s = time.perf_counter() - start

    def step(self, ids):
        tokens = (self.lib.llama_token * len(ids))(*ids)
        if self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(tokens, len(ids))) != 0:
            sys.exit("llama_decode failed")
        self.lib.llama_synchronize(self.context)

    def prefill(self, ids=PROMPT):
        self.lib.llama_memory_clear(self.memory, True)
        start = time.perf_counter()
        self.step(ids)
        return time.perf_counter() - start

    def decode(self):
        """Seconds of a step; the context holds 512 tokens before and after."""
        start = time.perf_counter()
        for i in range(DECODE_TOKENS):
            self.step([i + 5])
        seconds = (time.perf_counter() - start) / DECODE_TOKENS
        self.lib.llama_memory_seq_rm(self.memory, 0, len(PROMPT), -1)
        return seconds

    def first_token(self):
        logits = self.lib.llama_get_logits_ith(self.context, -1)
        return max(range(self.vocab), key=lambda i: logits[i])


def pss_bytes(pid):
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    return 0


def rival_main(model, threads):
    import llama_cpp  # noqa: F401  what Python and the library take before a model is loaded is not counted
    before = pss_bytes("self")
    rival = Rival(model, threads)
    print(json.dumps({"ready": True, "load_s": rival.load_s, "pss_before": before}), flush=True)
    for line in sys.stdin:
        what = line.strip()
        if what == "cold":  # load and first token, without the start of Python
            seconds = rival.load_s + rival.prefill(PROMPT[:COLD_PROMPT])
            print(json.dumps({what: seconds, "token": rival.first_token()}), flush=True)
        elif what == "memory":
            rival.prefill()
            rival.decode()
            print(json.dumps({what: 0}), flush=True)
        else:
            print(json.dumps({what: rival.prefill() if what == "prefill" else rival.decode()}), flush=True)


# --- the driver ----------------------------------------------------------------------------------------------------

class Child:
    def __init__(self, name, command):
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.hello = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name}: ended with status {self.process.wait()}")
        return json.loads(line)

    def ask(self, what):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        answer = self.read()[what]
        time.sleep(0.02)  # its threads stop polling before another process is timed
        return answer

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)


def rival_python(args):
    """Python of the environment with llama-cpp-python; made and built if it is not there yet."""
    python = pathlib.Path(args.venv) / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", args.venv], check=True)
    if subprocess.run([python, "-c", "import llama_cpp"], capture_output=True).returncode != 0:
        print(f"building llama-cpp-python {args.version} in {args.venv} (minutes)", file=sys.stderr)
        environment = dict(os.environ, CMAKE_ARGS="-DGGML_NATIVE=ON")
        subprocess.run(["nice", python, "-m", "pip", "install", "-q", "--no-binary", "llama-cpp-python",
                        f"llama-cpp-python=={args.version}"], check=True, env=environment)
    return str(python)


def spread(values):
    quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return {"median": statistics.median(values), "quartiles": [quartiles[0], quartiles[2]],
            "min": min(values), "max": max(values)}


def compare(args, python, threads):
    """Prefill and decode of one number of threads."""
    weft = [args.weft, "bench", "model", "--model", args.model, "--paced", "--tokens", str(len(PROMPT)),
            "--context", str(len(PROMPT)), "--decode-tokens", str(DECODE_TOKENS)]
    children = {"weft": Child("weft", [*weft, "--tp", "1", "--threads", str(threads)])}
    if threads % 2 == 0:
        children["weft_tp2"] = Child("weft TP=2", [*weft, "--tp", "2", "--threads", str(threads // 2)])
    children["llama_cpp"] = Child("llama.cpp", [python, __file__, "--rival", "--model", args.file, "--threads",
                                                str(threads)])
    rounds = []
    for i in range(args.rounds + 1):
        one = {"read": children["weft"].ask("read")}
        for phase in ("prefill", "decode"):
            for name, child in children.items():
                one[f"{name}.{phase}"] = child.ask(phase)
        one["read_after"] = children["weft"].ask("read")
        if i > 0:  # the first one warms up
            rounds.append(one)
    bytes_per_step = children["weft"].hello["bytes_per_step"]
    for child in children.values():
        child.close()

    def ratio(over, under):
        return spread([r[over] / r[under] for r in rounds])

    reading = [(r["read"] + r["read_after"]) / 2 for r in rounds]
    result = {"threads": threads, "rounds": args.rounds, "read_gb_per_s": spread([b * 1e-9 for b in reading])}
    for phase, tokens in (("prefill", len(PROMPT)), ("decode", 1)):
        for name in children:
            result[f"{name}_{phase}_tokens_per_s"] = spread([tokens / r[f"{name}.{phase}"] for r in rounds])
        result[f"{phase}_over_llama_cpp"] = ratio(f"llama_cpp.{phase}", f"weft.{phase}")
        if "weft_tp2" in children:
            result[f"{phase}_tp2_over_tp1"] = ratio(f"weft.{phase}", f"weft_tp2.{phase}")
    result["decode_percent_of_read"] = spread([100 * bytes_per_step / r["weft.decode"] / b
                                               for r, b in zip(rounds, reading)])
    # What a busy machine disturbs least: each side's best sample.
    best = {key: min(r[key] for r in rounds) for key in rounds[0] if "." in key}
    result["best_samples"] = {f"{phase}_over_llama_cpp": best[f"llama_cpp.{phase}"] / best[f"weft.{phase}"]
                              for phase in ("prefill", "decode")}
    if "weft_tp2" in children:
        for phase in ("prefill", "decode"):
            result["best_samples"][f"{phase}_tp2_over_tp1"] = best[f"weft.{phase}"] / best[f"weft_tp2.{phase}"]
    most_read = max(max(r["read"], r["read_after"]) for r in rounds)
    for name in children:
        if name != "llama_cpp":
            result["best_samples"][f"{name}_decode_percent_of_read"] = 100 * bytes_per_step / best[f"{name}.decode"] / most_read
    return result


def forget_file(path):
    """Drops the file from the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def weft_command(args, threads, prompt, tokens):
    return [args.weft, "generate", "--model", args.model, "--tp", "1", "--threads", str(threads), "--json",
            "--prompt-ids", ",".join(map(str, prompt)), "--max-tokens", str(tokens), "--ignore-eos"]


def cold_start(args, python, threads):
    """Load and first token of a fresh process whose file is not in memory. weft: from the start of the process to its
    end, tokenizer included; llama.cpp: load and first token only, after Python and its library have started."""
    weft, rival, inside = [], [], []
    for _ in range(args.rounds):
        forget_file(args.file)
        start = time.perf_counter()
        out = subprocess.run(weft_command(args, threads, PROMPT[:COLD_PROMPT], 1), check=True, capture_output=True)
        weft.append(time.perf_counter() - start)
        answer = json.loads(out.stdout)
        inside.append(answer["load_s"] + answer["ttft_s"])
        forget_file(args.file)
        child = Child("llama.cpp", [python, __file__, "--rival", "--model", args.file, "--threads", str(threads)])
        rival.append(child.ask("cold"))
        child.close()
    return {"threads": threads, "weft_process_s": spread(weft), "weft_load_and_first_token_s": spread(inside),
            "llama_cpp_load_and_first_token_s": spread(rival),
            "process_over_llama_cpp": spread([r / w for r, w in zip(rival, weft)]),
            "load_and_first_token_over_llama_cpp": spread([r / w for r, w in zip(rival, inside)])}


class PeakMemory(threading.Thread):
    """The largest PSS of a process, looked at every few milliseconds."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak, self.done = pid, 0, False

    def run(self):
        while not self.done:
            try:
                self.peak = max(self.peak, pss_bytes(self.pid))
            except OSError:
                return
            time.sleep(0.002)


def memory(args, python, threads):
    """Largest PSS of loading, prefilling 512 tokens and decoding 8. What Python and the library take before llama.cpp
    loads its model is taken off."""
    def watched(process, wait):
        watch = PeakMemory(process.pid)
        watch.start()
        wait()
        watch.done = True
        watch.join()
        return watch.peak

    weft = subprocess.Popen(weft_command(args, threads, PROMPT, DECODE_TOKENS), stdout=subprocess.DEVNULL)
    weft_bytes = watched(weft, weft.wait)
    rival = subprocess.Popen([python, __file__, "--rival", "--model", args.file, "--threads", str(threads)],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    answers = []
    rival_bytes = watched(rival, lambda: answers.append(rival.communicate("memory\n")[0]))
    before = json.loads(answers[0].splitlines()[0])["pss_before"]
    return {"threads": threads, "weft_peak_pss_bytes": weft_bytes, "llama_cpp_peak_pss_bytes": rival_bytes - before,
            "llama_cpp_python_bytes": before, "llama_cpp_over_weft": (rival_bytes - before) / weft_bytes}


def revision():
    done = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def show(report):
    for r in report["steps"]:
        print(f"{r['threads']} threads, {r['rounds']} rounds; medians (quartiles)")
        for key, value in r.items():
            if key == "best_samples":
                print("  best samples: " + ", ".join(f"{name} {figure:.2f}" for name, figure in value.items()))
            elif isinstance(value, dict):
                low, high = value["quartiles"]
                print(f"  {key:<32}{value['median']:10.2f}  ({low:.2f} - {high:.2f})")
    for r in report["cold_start"]:
        print(f"cold start, {r['threads']} threads: weft process {r['weft_process_s']['median']:.3f} s, load and first "
              f"token {r['weft_load_and_first_token_s']['median']:.3f} s; llama.cpp "
              f"{r['llama_cpp_load_and_first_token_s']['median']:.3f} s")
    for r in report["memory"]:
        print(f"peak memory, {r['threads']} threads: weft {r['weft_peak_pss_bytes'] / 2**20:.0f} MiB, llama.cpp "
              f"{r['llama_cpp_peak_pss_bytes'] / 2**20:.0f} MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a name that `weft fetch` knows, or a .gguf file")
    parser.add_argument("--weft", default=str(ROOT / "build/release/weft"))
    parser.add_argument("--threads", default="2,1")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--venv", help="environment of the rival; made if missing [a temporary one]")
    parser.add_argument("--version", default="0.3.36", help="of llama-cpp-python")
    parser.add_argument("--rival", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rival:
        return rival_main(args.model, int(args.threads))
    args.file = args.model
    if not args.model.endswith(".gguf"):
        fetched = subprocess.run([args.weft, "fetch", args.model], check=True, capture_output=True, text=True)
        args.file = fetched.stdout.strip().splitlines()[-1]
    with tempfile.TemporaryDirectory() as throw_away:
        args.venv = args.venv or throw_away + "/venv"
        python = rival_python(args)
        counts = [int(t) for t in args.threads.split(",")]
        info = subprocess.run([args.weft, "--version"], capture_output=True, text=True).stdout.strip()
        report = {"command": " ".join(["bench/vs_llama_cpp.py", *sys.argv[1:]]), "revision": revision(),
                  "date": datetime.date.today().isoformat(), "processor": processor(), "cpus": os.cpu_count(),
                  "model": pathlib.Path(args.file).name, "weft": info, "llama_cpp_python": args.version,
                  "steps": [compare(args, python, t) for t in counts],
                  "cold_start": [cold_start(args, python, t) for t in counts],
                  "memory": [memory(args, python, t) for t in counts]}
    show(report)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
