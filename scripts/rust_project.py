#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Adds our crates to the rust-project.json that the kernel's `make rust-analyzer` has written.

The kernel's script finds a crate only where a Makefile beside its root names the object, and knows
of no dependencies between the crates of a module. What each crate is compiled of and with is taken
from the commands that the build has saved.
"""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

# Every crate may use these; the rest is said with --extern.
COMMON = ("core", "compiler_builtins", "macros")


def crates(objects):
    """The crates that were built, as (name, root, names of crates used, cfgs, environment)."""
    for path in sorted(objects.rglob(".*.o.cmd")):
        saved = path.read_text().splitlines()[0].partition(" := ")[2]
        if "--crate-name" not in saved:
            continue
        words = shlex.split(saved.replace("$(pound)", "#").replace("$$", "$"))
        after = dict.fromkeys(("--crate-name", "--extern", "--cfg", "--env-set"), ())
        for option, value in zip(words, words[1:]):
            if option in after:
                after[option] += (value,)
        name = after["--crate-name"][-1]
        root = next(word for word in reversed(words) if word.endswith(".rs"))
        env = dict(word.split("=", 1) for word in after["--env-set"])
        env |= dict(word.split("=", 1) for word in words if word.startswith("OBJTREE="))
        yield name, os.path.normpath(root), after["--extern"], after["--cfg"], env


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=Path, required=True, help="the output folder")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    project = json.loads((args.objects / "rust-project.json").read_text())
    known = project["crates"]
    ours = {name: rest for name, *rest in crates(args.objects)}
    if not ours:
        sys.exit(f"{args.objects}: nothing was built there")
    # The kernel's own entry of one of our crates would lack its dependencies.
    known = [crate for crate in known if crate["display_name"] not in ours]
    if len(known) != len(project["crates"]):
        sys.exit("rust-project.json has our crates already")
    index = {crate["display_name"]: number for number, crate in enumerate(known)}
    config = known[index["kernel"]]["cfg"]
    # In the order in which they depend on each other.
    while ours:
        ready = [name for name, rest in ours.items() if not set(rest[1]) & set(ours)]
        if not ready:
            sys.exit(f"crates that depend on each other: {', '.join(ours)}")
        for name in ready:
            root, uses, cfgs, env = ours.pop(name)
            index[name] = len(known)
            known.append({
                "display_name": name,
                "root_module": root,
                "edition": "2021",
                "is_workspace_member": True,
                "cfg": [*config, *cfgs],
                "deps": [{"crate": index[used], "name": used} for used in (*COMMON, *uses)],
                "env": {**env, "RUST_MODFILE": "rust-analyzer",
                        "RUST_EXT_OBJ": str(args.objects / "rust")},
                "source": {"include_dirs": [str(Path(root).parent), str(args.objects / "rust")],
                           "exclude_dirs": []},
            })
    args.output.write_text(json.dumps(project | {"crates": known}, indent=1) + "\n")


main()
