#!/usr/bin/env python3
"""Finds names that mean two things in one program, which the linker does not: it takes one of them for both.

Usage: scripts/check_names.py [root] | --archives ARCHIVE... | --self-test
- types that two files of src/ define in the same namespace;
- with --archives: functions and variables that two objects of these static libraries define.
Exit status 1 when there are any.
"""

import collections
import pathlib
import re
import subprocess
import sys

SUFFIXES = {".h", ".cc", ".cu", ".cuh"}
NAMESPACE = re.compile(r"(?:inline )?namespace ?([\w:]*) ?(?:\[\[.*\]\] ?)?\{")
# Namespaces are not indented, so what stands at the beginning of a line stands in one, not in a class.
TYPE = re.compile(r"(?:struct|class|union|enum class) (?:alignas\(.+?\) )?(\w+)(?: final)?(?: :[^:].*)?(?: ?\{.*)$")


def types_of(text):
    """Yields (line number, qualified name) of the types defined in `text` that other files could mean too."""
    namespaces = []
    for number, line in enumerate(text.splitlines(), 1):
        if opened := NAMESPACE.match(line):
            namespaces.append(opened[1])
        elif line.startswith("}") and "// namespace" in line:
            namespaces = namespaces[:-1]
        elif (found := TYPE.match(line)) and "" not in namespaces:
            yield number, "::".join([*namespaces, found[1]])


def types_of_tree(root):
    places = collections.defaultdict(dict)  # name -> file -> line
    for path in sorted((root / "src").rglob("*")):
        if path.suffix in SUFFIXES and "target" not in path.parts:
            for number, name in types_of(path.read_text()):
                places[name].setdefault(path.relative_to(root), number)
    return {name: [f"{file}:{line}" for file, line in files.items()] for name, files in places.items()}


def symbols_of(archives):
    command = ["nm", "-A", "--defined-only", "--extern-only", *archives]
    lines = subprocess.run(command, check=True, text=True, capture_output=True).stdout
    places = collections.defaultdict(list)
    for place, name in re.findall(r"^(.*):[0-9a-f]* [TDBR] (\S+)$", lines, re.MULTILINE):
        places[name].append(place)
    return places


def demangled(name):
    return subprocess.run(["c++filt", name], check=True, text=True, capture_output=True).stdout.strip()


def report(places):
    twice = {name: files for name, files in places.items() if len(files) > 1}
    for name, files in twice.items():
        print(f"{demangled(name)} is defined in {' and in '.join(files)}")
    return len(twice)


def self_test():
    text = (
        "namespace weft {\nstruct A {\nclass B;\nnamespace {\nstruct C {\n}  // namespace\nclass D final : public A {\n"
    )
    found = list(
        types_of(text + "  struct E {\n}  // namespace weft\nenum class F : int {\ntemplate <>\nstruct A<int> {\n")
    )
    expected = [(2, "weft::A"), (7, "weft::D"), (10, "F")]
    if found != expected:
        print(f"self-test: expected {expected}, found {found}")
    return int(found != expected)


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    if sys.argv[1:2] == ["--archives"]:
        places = symbols_of(sys.argv[2:])
    else:
        places = types_of_tree(
            pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parent.parent
        )
    twice = report(places)
    print(f"names: {len(places)}, {twice} of them twice")
    return int(twice > 0)


if __name__ == "__main__":
    sys.exit(main())
