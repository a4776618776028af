"""What the end-to-end tests share: running the built program."""
import json
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
WEFT = os.environ.get("WEFT_BINARY", str(ROOT / "build/release/weft"))
GOLDEN = str(ROOT / "tests/goldens/smollm2-135m.safetensors")
MODEL = "smollm2-135m"
WORLD_VARIABLES = ("RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")


def clean_environment(**extra):
    environment = {k: v for k, v in os.environ.items() if k not in WORLD_VARIABLES}
    environment.update(extra)
    return environment


def run(*arguments, stdin="", timeout=120, before=(), **environment):
    """Runs `before... weft arguments...`; the finished process with text output."""
    return subprocess.run([*before, WEFT, *map(str, arguments)], input=stdin, capture_output=True, text=True,
                          timeout=timeout, env=clean_environment(**environment))


def generate(*arguments, **kwargs):
    """The JSON object of a successful `weft generate`."""
    done = run("generate", "--model", MODEL, "--json", *arguments, **kwargs)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def fails(*arguments, says, code=1, **kwargs):
    """Runs a command that must fail with one line that contains every string of `says`."""
    done = run(*arguments, **kwargs)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("weft: "), done.stderr
    for text in says:
        assert text in lines[0], lines[0]
