"""What the end-to-end tests share: running the built program."""
import json
import os
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
WEFT = os.environ.get("WEFT_BINARY", str(ROOT / "build/release/weft"))
GOLDEN = str(ROOT / "tests/goldens/smollm2-135m.safetensors")
MODEL = "smollm2-135m"
LAUNCHER_VARIABLES = re.compile(r"^(RANK|LOCAL_RANK|WORLD_|LOCAL_WORLD_|MASTER_|NODE_RANK|OMPI_|PMIX_|SLURM_|WEFT_)")


def clean_environment(**extra):
    """This process's environment without what a launcher or a user of weft has set, and with `extra`."""
    kept = {name: value for name, value in os.environ.items() if not LAUNCHER_VARIABLES.match(name)}
    return kept | {name: str(value) for name, value in extra.items()}


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
