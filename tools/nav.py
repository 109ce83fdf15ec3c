#!/usr/bin/env python3
"""Check the links between notebooks, pages and files: `tools/nav.py`; with `--fix`, mend those that a new number broke, and write the
last line of each workshop notebook, which leads to the one before and the one after; `--renumber nbs/data` numbers the notebooks of a
folder anew, 05b_parquet after 05_rows, and mends the links.

A link to `data/05_rows.ipynb` is mended if exactly one notebook of that folder is now called NN_rows.ipynb. What cannot be mended is
printed with the page it stands on; the exit status is then 1.
"""
from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from urllib.parse import unquote

sys.path.insert(0, str(Path(__file__).resolve().parent)) # its neighbours, also where it is imported by a test
from docsite import PAGES, anchor, links, relink, slug  # noqa: E402
from nbrun import ROOT, find_nbs, read_nb, source, write_nb  # noqa: E402

_number = re.compile(r"^\d+[a-z]?_") # what orders notebooks in a folder

def pages() -> list[Path]:
    "Every page that has links: the notebooks, and the texts of the root."
    texts = [ROOT/o for o in ("README.md", *PAGES) if (ROOT/o).exists()]
    return [*find_nbs(), *texts]

def texts(path: Path) -> list[str]:
    "The Markdown of a page, cell by cell, that of stored outputs too."
    if path.suffix != ".ipynb": return [path.read_text(encoding="utf-8")]
    found = []
    for cell in read_nb(path)["cells"]:
        if cell["cell_type"] == "markdown": found.append(source(cell))
        for out in cell.get("outputs", []): found.append("".join(out.get("data", {}).get("text/markdown", "")))
    return found

def headings(path: Path) -> set[str]:
    "The fragments that lead to a page's headings, in JupyterLab's spelling and in the site's."
    titles = [o for text in texts(path) for o in re.findall(r"^#+ (.+)$", text, re.M)]
    return {anchor(o) for o in titles} | {slug(o) for o in titles}

def wrong_link(path: Path, file: str, fragment: str) -> str:
    "What is wrong with a link of a page; an empty string if nothing."
    there = (path.parent/unquote(file)).resolve() if file else path
    if not there.exists(): return f"{file} does not exist"
    if not fragment or there.suffix not in (".ipynb", ".md"): return ""
    return "" if unquote(fragment) in headings(there) else f"{file} has no heading #{fragment}"

def wrong_links(path: Path) -> list[str]:
    "What is wrong with the links of a page."
    found = [wrong_link(path, *link) for text in texts(path) for link in links(text)]
    return [o for o in found if o]

def renumbered(path: Path, file: str) -> str:
    "Where a link should lead whose notebook has another number now; the same link if that cannot be told."
    there = (path.parent/file).resolve() if file else path
    if there.exists() or there.suffix != ".ipynb" or not there.parent.is_dir(): return file
    name = _number.sub("", there.name)
    now = [o for o in there.parent.glob("*.ipynb") if _number.sub("", o.name) == name]
    if len(now) != 1: return file
    return file[:len(file) - len(there.name)] + now[0].name

def mended(path: Path, text: str) -> str:
    "A text of a page with its links mended; a number that the text itself shows (`[data/05_rows](...)`) follows."
    moved = {}
    def change(file, fragment):
        now = renumbered(path, file)
        if now != file: moved[Path(file).stem] = Path(now).stem
        return now + fragment
    text = relink(text, change)
    for old, new in moved.items(): text = re.sub(rf"(?<![\w.]){re.escape(old)}(?!\w)", new, text)
    return text

def mend(path: Path) -> bool:
    "Mend the links of a page that new numbers broke; says whether it changed."
    if path.suffix != ".ipynb":
        text = path.read_text(encoding="utf-8")
        new = mended(path, text)
        if new != text: path.write_text(new, encoding="utf-8")
        return new != text
    nb = read_nb(path)
    for cell in nb["cells"]:
        if cell["cell_type"] == "markdown": cell["source"] = mended(path, source(cell)).splitlines(keepends=True)
    return write_nb(nb, path)

FOOTER = "footer" # the id of the last cell of a workshop notebook

def title(path: Path) -> str:
    "The heading of a notebook."
    return re.search(r"^# (.+)$", "\n".join(texts(path)), re.M)[1]

def footer(path: Path) -> str | None:
    "The last line of a workshop notebook: the page before, the table of contents, the page after. None for other notebooks."
    folder = path.parent
    if folder.parent != ROOT/"nbs" or not _number.match(path.name) or folder.name == "solutions": return None
    room = sorted(folder.glob("[0-9][0-9]*_*.ipynb"))
    i = room.index(path)
    parts = [f"← [{title(room[i - 1])}]({room[i - 1].name})"] if i else []
    parts.append("[Contents](../index.ipynb)")
    if i + 1 < len(room): parts.append(f"[{title(room[i + 1])}]({room[i + 1].name}) →")
    return " · ".join(parts)

def write_footer(path: Path) -> bool:
    "Write the last line of a workshop notebook; says whether it changed."
    line = footer(path)
    if line is None: return False
    nb = read_nb(path)
    nb["cells"] = [c for c in nb["cells"] if c["id"] != FOOTER]
    nb["cells"].append(dict(cell_type="markdown", id=FOOTER, metadata={}, source=[line]))
    return write_nb(nb, path)

def wrong_footer(path: Path) -> list[str]:
    "What is wrong with a notebook's last line."
    line = footer(path) if path.suffix == ".ipynb" else None
    if line is None or source(read_nb(path)["cells"][-1]) == line: return []
    return ["the last line does not lead to its neighbours: tools/nav.py --fix"]

def renumber(folder: Path) -> list[tuple[Path, Path]]:
    "Number the notebooks of a folder from 01 on without gaps, in the order that they have; what was renamed."
    moves = []
    for i, old in enumerate(sorted(folder.glob("[0-9][0-9]*_*.ipynb")), 1):
        new = old.with_name(f"{i:02d}_{_number.sub('', old.name)}")
        if new != old: moves.append((old, new))
    for old, new in moves: old.rename(new.with_suffix(".moving")) # two steps: a new name may still be another's old one
    for old, new in moves: new.with_suffix(".moving").rename(new)
    return moves

def main() -> int:
    "Check, and mend if asked to."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fix", action="store_true", help="mend links to notebooks that have another number now")
    parser.add_argument("--renumber", nargs="+", metavar="FOLDER", type=Path, default=[],
                        help="number the notebooks of these folders without gaps, and mend the links (then run nbdev_export)")
    args = parser.parse_args()
    for folder in args.renumber:
        for old, new in renumber(folder): print(f"{folder}: {old.name} is now {new.name}")
    fix, failed = args.fix or bool(args.renumber), 0
    for path in pages():
        name = path.relative_to(ROOT).as_posix()
        if fix and path.name != "README.md" and mend(path): print(f"{name}: mended")
        if fix and path.suffix == ".ipynb" and write_footer(path): print(f"{name}: last line written")
        for wrong in [*wrong_links(path), *wrong_footer(path)]:
            failed += 1
            print(f"{name}: {wrong}")
    return int(failed > 0)

if __name__ == "__main__": sys.exit(main())
