#!/usr/bin/env python3
"""Holds the include rules of docs/architecture.md. Usage: scripts/check_layers.py [root] | --self-test

- a layer includes only the layers that ALLOWED names;
- a folder of ops/ or dist/ is entered only through its <op>.h or a header in PUBLIC; a protocol.h may use another one,
  and tests may use reference.h and cases.h;
- CUDA stands only in .cu and .cuh files, the headers of a framework only in the file that wraps it;
- includes of the project's files are rooted at src/.

A file of more than 500 lines is only warned about. Exit status 1 when a rule is broken.
"""

import pathlib
import re
import sys
import tempfile

BASE = {"base"}
DEVICE = BASE | {"device"}
DIST = DEVICE | {"ops", "comm", "dist"}
LAYERS = DIST | {"weights", "text", "layers"}
MODELS = LAYERS | {"models"}
ENGINE = MODELS | {"engine"}
SERVE = ENGINE | {"serve"}
ALLOWED = {
    "base": BASE,
    "device": DEVICE,
    "ops": DEVICE | {"ops"},
    "comm": DEVICE | {"comm"},
    "dist": DIST,
    "weights": BASE | {"weights"},
    "text": BASE | {"text"},
    "layers": LAYERS,
    "models": MODELS,
    "engine": ENGINE,
    "serve": SERVE,
    "cluster": SERVE | {"cluster"},
    "cli": SERVE | {"cluster", "cli"},
    "python": DIST | {"python"},
}

# Headers of an operator's folder, besides <op>.h, that others may include.
PUBLIC = {
    "ops/attention/bench.h",
    "ops/attention/kv_cache.h",
    "ops/attention/step_batch.h",
    "ops/gemm/activation.h",
    "ops/gemm/bench.h",
    "ops/gemm/cases.h",
    "ops/gemm/cublas.cuh",
    "ops/gemm/cuda_bench.h",
    "ops/gemm/cuda_plan.h",
    "ops/gemm/cuda_sm90.cuh",
    "ops/gemm/cuda_small_configs.cuh",
    "ops/gemm/gemm_small.cuh",
    "dist/all_reduce/cuda_bench.h",
    "dist/expert_parallel/cuda.cuh",
    "dist/expert_parallel/cuda_bench.h",
    "dist/expert_parallel/cuda_programs.h",
    "dist/expert_parallel/selfcheck.h",
    "ops/gemm/weight.h",
    "ops/grouped_gemm/cuda_plan.h",
    "ops/grouped_gemm/cuda_sm90.cuh",
    "ops/grouped_gemm/cuda_sum.cuh",
    "ops/quantise/fp8_block.cuh",
    "ops/rms_norm/cuda_row.cuh",
    "ops/grouped_gemm/bench.h",
    "ops/grouped_gemm/cases.h",
    "ops/grouped_gemm/expert_groups.h",
}

# Folders that are no operators but hold what several operators share.
SHARED = {"dist/exchange"}

# Foreign headers and the only file or folder that may include them.
FRAMEWORKS = {
    re.compile(r"mpi\.h|openmpi/.*"): "src/comm/bootstrap/mpi.cc",
    re.compile(r"torch/.*|ATen/.*|c10/.*"): "",
    re.compile(r"Python\.h|nanobind/.*"): "src/python/",
}
CUDA_INCLUDE = re.compile(r"(cuda|cublas|nccl|nvrtc|cooperative_groups)[\w/]*\.(h|hpp)")
CUDA_SYNTAX = re.compile(r"\b__(global|device|shared|host)__\b|<<<")
MACRO = re.compile(r"\s*#\s*define\s")  # the macros that hide CUDA from plain compilers may be defined anywhere

MAX_LINES = 500
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
SUFFIXES = {".h", ".cc", ".cu", ".cuh"}


def is_test(path):
    return re.search(r"(^|_)test\.(cc|cu)$", path.name) is not None


def enters_operator(included, includer):
    """Whether `included` (as written) reaches into an operator's folder that is not the includer's own."""
    parts = pathlib.PurePosixPath(included).parts
    if len(parts) < 3 or parts[0] not in ("ops", "dist"):
        return False
    if includer.parts[1:3] == parts[:2]:
        return False
    if "/".join(parts[:2]) in SHARED or included in PUBLIC:
        return False
    if parts[2:] in ((parts[1] + ".h",), (parts[1] + ".cuh",)):
        return False
    if includer.name == parts[2] == "protocol.h":  # fused protocols are made of the plain ones
        return False
    return not (is_test(includer) and parts[2] in ("reference.h", "cases.h"))


def without_comments_and_strings(line):
    return re.sub(r'"(\\.|[^"\\])*"', '""', line).split("//")[0]


def check_include(root, path, kind, included):
    """Yields what is wrong with one include of `path`, which is relative to `root`."""
    layer, target = path.parts[1], included.split("/")[0]
    if kind == "<":
        for pattern, wrapper in FRAMEWORKS.items():
            inside = path.as_posix().startswith(wrapper) if wrapper.endswith("/") else path.as_posix() == wrapper
            if pattern.fullmatch(included) and not inside:
                yield f"includes <{included}>, which only {wrapper or 'nothing'} may"
        if CUDA_INCLUDE.fullmatch(included) and path.suffix not in (".cu", ".cuh"):
            yield f"includes <{included}>: CUDA stands only in .cu and .cuh files"
    elif target in ALLOWED and "/" in included:
        if target not in ALLOWED[layer]:
            yield f'includes "{included}", but {layer} must not use {target}'
        if enters_operator(included, path):
            yield f'includes "{included}": enter {"/".join(included.split("/")[:2])} through its public header'
    elif (root / path.parent / included).exists():
        yield f'includes "{included}": write the path from src/'


def check_file(root, path):
    """Yields (line number, message) for a file, whose path is relative to `root`."""
    if path.parts[1] not in ALLOWED or len(path.parts) < 3:
        yield 1, f"stands in no layer; the layers are {', '.join(ALLOWED)}"
        return
    plain = path.suffix in (".h", ".cc")
    for number, line in enumerate((root / path).read_text().splitlines(), 1):
        if found := INCLUDE.match(line):
            for message in check_include(root, path, *found.groups()):
                yield number, message
        elif plain and not MACRO.match(line) and CUDA_SYNTAX.search(without_comments_and_strings(line)):
            yield number, "CUDA syntax stands only in .cu and .cuh files"


def source_files(root):
    files = (path for path in (root / "src").rglob("*") if path.suffix in SUFFIXES)
    return sorted(path.relative_to(root) for path in files if "target" not in path.parts)


def check_tree(root):
    """Prints every violation and returns how many there are."""
    violations = 0
    for path in source_files(root):
        for number, message in check_file(root, path):
            print(f"{path}:{number}: {message}")
            violations += 1
        lines = len((root / path).read_text().splitlines())
        if lines > MAX_LINES:
            print(f"{path}: warning: {lines} lines, more than {MAX_LINES}")
    return violations


SELF_TEST = [  # path, line, part of the message expected or None
    ("base/a.h", "#include <vector>", None),
    ("base/a.h", '#include "device/x.h"', "base must not use device"),
    ("device/a.cc", '#include "base/a.h"', None),
    ("ops/gemm/cpu.cc", '#include "ops/gemm/pack.h"', None),
    ("ops/gemm/cpu.cc", '#include "comm/world.h"', "ops must not use comm"),
    ("ops/rope/cpu.cc", '#include "ops/gemm/pack.h"', "through its public header"),
    ("ops/rope/cpu.cc", '#include "ops/gemm/gemm.h"', None),
    ("ops/rope/cpu.cc", '#include "ops/gemm/weight.h"', None),
    ("ops/rope/cpu.cc", '#include "ops/gemm/reference.h"', "through its public header"),
    ("ops/rope/test.cc", '#include "ops/gemm/reference.h"', None),
    ("ops/cuda_rows_test.cu", '#include "ops/rope/cases.h"', None),
    ("comm/machine/a.h", '#include "ops/gemm/gemm.h"', "comm must not use ops"),
    ("dist/ag_gemm/a.cc", '#include "dist/all_gather/all_gather.h"', None),
    ("dist/ag_gemm/a.cc", '#include "dist/all_gather/detail.h"', "through its public header"),
    ("dist/gemm_ar/protocol.h", '#include "dist/all_reduce/protocol.h"', None),
    ("dist/gemm_ar/gemm_ar.cc", '#include "dist/all_reduce/protocol.h"', "through its public header"),
    ("dist/all_gather/a.cc", '#include "dist/exchange/tiles.h"', None),
    ("weights/a.cc", '#include "text/tokenizer.h"', "weights must not use text"),
    ("layers/a.cc", '#include "weights/gguf.h"', None),
    ("models/a.cc", '#include "engine/e.h"', "models must not use engine"),
    ("cluster/a.cc", '#include "cli/commands.h"', "cluster must not use cli"),
    ("cli/a.cc", '#include "models/model.h"', None),
    ("cli/a.cc", '#include "ops/gemm/pack.h"', "through its public header"),
    ("cli/a.cc", "#include <mpi.h>", "which only src/comm/bootstrap/mpi.cc may"),
    ("comm/bootstrap/mpi.cc", "#include <mpi.h>", None),
    ("python/a.cc", "#include <nanobind/nanobind.h>", None),
    ("dist/a.cc", "#include <nanobind/nanobind.h>", "which only src/python/ may"),
    ("python/a.cc", '#include "layers/a.h"', "python must not use layers"),
    ("cli/a.cc", "#include <torch/torch.h>", "which only nothing may"),
    ("ops/gemm/cuda.h", "#include <cuda_runtime.h>", "CUDA stands only"),
    ("ops/gemm/cuda.cu", "#include <cuda_runtime.h>", None),
    ("ops/gemm/a.cc", "__global__ void f();", "CUDA syntax"),
    ("ops/gemm/a.cc", "// __global__ in a comment", None),
    ("ops/gemm/a.cc", 'puts("<<<");', None),
    ("base/host_device.h", "#define WEFT_HD __host__ __device__", None),
    ("base/b.cc", '#include "a.h"', "write the path from src/"),
    ("tensor/a.cc", "", "stands in no layer"),
    ("a.cc", "", "stands in no layer"),
]


def self_test():
    """Checks the checker: each line of SELF_TEST alone in its file."""
    failures = 0
    for path, line, expected in SELF_TEST:
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            file = root / "src" / path
            file.parent.mkdir(parents=True)
            (file.parent / "a.h").touch()
            file.write_text(line + "\n")
            messages = [message for _, message in check_file(root, pathlib.Path("src") / path)]
        good = not messages if expected is None else len(messages) == 1 and expected in messages[0]
        if not good:
            print(f"self-test: src/{path}: {line}: expected {expected}, found {messages}")
            failures += 1
    return failures


def main():
    if sys.argv[1:] == ["--self-test"]:
        failures = self_test()
        print(f"layers: self-test of {len(SELF_TEST)} cases, {failures} failed")
    else:
        root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parent.parent
        failures = check_tree(root)
        print(f"layers: {len(source_files(root))} files, {failures} violations")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
