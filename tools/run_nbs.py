#!/usr/bin/env python3
"""Execute notebooks in place and store their outputs, clean: `tools/run_nbs.py [NOTEBOOK ...]`, by default all below nbs/.

Cells that cannot run here (`#| cuda` without a GPU, `#| slow` without MOCA_SLOW=1, `#| eval: false`, `#| notest`) keep the outputs
they have. A notebook in which a cell fails is left as it was.
"""
from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

from nbdev.clean import clean_nb

import nbrun

_progress = re.compile(r"\r|\d\s*(it/s|s/it)\b|\?\s*it/s")
_widget = "application/vnd.jupyter.widget-view+json"

def tidy(text: str) -> str:
    "Text without colours and without the lines of progress bars."
    text = nbrun.strip_ansi(text).replace("\r\n", "\n")
    return "".join(o for o in text.splitlines(keepends=True) if not _progress.search(o)) if _progress.search(text) else text

def lines(text) -> list[str]:
    "Tidy text as a notebook stores it: a list of lines."
    return [o for o in re.split("(?<=\n)", tidy("".join(text))) if o]

def clean_output(out: dict) -> dict | None:
    "An output as it is stored; None for one that is not: stderr, widgets, progress bars."
    out = {k: v for k, v in out.items() if k != "_id"}
    if out["output_type"] == "stream":
        out["text"] = lines(out["text"])
        return out if out["name"] != "stderr" and "".join(out["text"]).strip() else None
    if "data" not in out: return out
    if _widget in out["data"]: return None
    data = {}
    for kind, value in out["data"].items():
        if kind.startswith("text/") or kind == "image/svg+xml":
            value = lines(value)
            if not value: continue
        data[kind] = value
    return out | {"data": data} if data else None

def run_nb(path: Path) -> tuple[int, int, bool]:
    "Execute one notebook in place: the numbers of cells run and skipped, and whether the file changed."
    nb, ran, skipped = nbrun.read_nb(path), 0, 0
    with nbrun.Kernel(path.parent) as kernel:
        for i, cell in enumerate(nb["cells"]):
            if cell["cell_type"] != "code": continue
            src = nbrun.source(cell)
            if not src.strip(): cell["outputs"] = []
            elif nbrun.why_not(src): skipped += 1
            else:
                try: cell["outputs"] = kernel.run(src)
                except nbrun.CellError as e: raise nbrun.CellError(f"cell [{i:02d}]:\n{src}\n\n{e}") from None
                ran += 1
            cell["outputs"] = [o for o in map(clean_output, cell["outputs"]) if o]
    nb["metadata"].pop("widgets", None)
    clean_nb(nb)
    return ran, skipped, nbrun.write_nb(nb, path)

def main() -> int:
    "Run the notebooks named on the command line; the exit status is 1 if one failed."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="notebooks to execute (all below nbs/)")
    failed = 0
    for path in parser.parse_args().notebooks or nbrun.find_nbs():
        start = time.monotonic()
        try: ran, skipped, changed = run_nb(path.resolve())
        except (nbrun.CellError, OSError, ValueError) as e:
            failed += 1
            print(f"{path.name:34s} FAILED: {e}", file=sys.stderr, flush=True)
        else:
            news = "updated" if changed else "nothing changed"
            print(f"{path.name:34s} {time.monotonic() - start:6.1f} s {ran:4d} cells run {skipped:3d} skipped  {news}", flush=True)
    return int(failed > 0)

if __name__ == "__main__": sys.exit(main())
