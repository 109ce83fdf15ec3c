#!/usr/bin/env python3
"""Note how long notebooks compute, in seconds of processor time: `tools/times.py [NOTEBOOK ...]`, by default the chapters of the book.

The front page shows what is written into nbs/results/times.json. Processor time is the kernel's own; a busy machine does not change it much.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

import nbrun

FILE = nbrun.NBS/"results"/"times.json"

def seconds(path: Path) -> float:
    "Run the cells of a notebook that may run here, and tell the processor time that its kernel took."
    with nbrun.Kernel(path.parent) as kernel:
        for cell in nbrun.read_nb(path)["cells"]:
            src = nbrun.source(cell)
            if cell["cell_type"] == "code" and src.strip() and not nbrun.why_not(src): kernel.run(src)
        told = kernel.run("import time; print(time.process_time())")
    return float("".join(told[-1]["text"]))

def main() -> int:
    "Measure, and add to what is written."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="notebooks to measure (the chapters)")
    paths = parser.parse_args().notebooks or sorted(nbrun.NBS.glob("[0-9][0-9]_*.ipynb"))
    known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    known |= dict(unit="seconds of processor time", threads=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())),
                  machine=f"CPU, {platform.machine()}, Python {platform.python_version()}")
    times = known.setdefault("notebooks", {})
    for path in paths:
        name = path.resolve().relative_to(nbrun.NBS).as_posix()
        times[name] = round(seconds(path.resolve()), 1)
        print(f"{name:40s} {times[name]:6.1f} s", flush=True)
    FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 0

if __name__ == "__main__": sys.exit(main())
