#!/usr/bin/env python3
"""Render nbs/index.ipynb to README.md: prose and code as they stand, text outputs, and figures as files below assets/.

`#| hide` cells and directive lines are left out, `#| echo: false` shows a cell's output only, `#| fig-alt: text` describes its picture, links are made relative to the root.
`tools/readme.py --check` changes nothing and fails where README.md is stale.
"""
from __future__ import annotations

import argparse
import base64
import posixpath
import re
import sys

from nbrun import NBS, ROOT, code_only, directives, read_nb, source, strip_ansi

_link = re.compile(r"(\]\(|(?:src|href)=\")(?![a-z][a-z0-9+.-]*:|[#/])([^)\s\"#]+)")
_fenced = re.compile(r"(^ *(?P<fence>```+|~~~+).*?^ *(?P=fence) *$|`[^`\n]*`)", re.M | re.S)

def fence(text: str, lang: str = "") -> str:
    "`text` as a fenced block, with a fence longer than any inside it."
    marks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{marks}{lang}\n{text.rstrip()}\n{marks}"

def prose(text: str) -> str:
    "Markdown with its links seen from the root instead of from nbs/; code stays as it is."
    def rebase(m): return m[1] + posixpath.normpath(posixpath.join(NBS.name, m[2]))
    pieces, end = [], 0
    for m in _fenced.finditer(text):
        pieces += [_link.sub(rebase, text[end:m.start()]), m[0]]
        end = m.end()
    return "".join([*pieces, _link.sub(rebase, text[end:])])

def output(out: dict, figures: dict[str, bytes], alt: str = "") -> str:
    "One output as markdown; a picture is added to `figures` under its path, `alt` says what it shows."
    if out["output_type"] == "stream": return fence(strip_ansi("".join(out["text"]))) if out["name"] == "stdout" else ""
    data = {k: v if isinstance(v, str) else "".join(v) for k, v in out.get("data", {}).items() if isinstance(v, (str, list))}
    if "image/png" in data:
        name = f"assets/readme-{len(figures) + 1}.png"
        figures[name] = base64.b64decode(data["image/png"])
        return f"![{alt or f'figure {len(figures)}'}]({name})"
    if "text/markdown" in data: return prose(data["text/markdown"].strip())
    if "<table" in data.get("text/html", ""): return re.sub(r"<style.*?</style>\s*", "", data["text/html"], flags=re.S).strip()
    return fence(strip_ansi(data["text/plain"])) if data.get("text/plain", "").strip() else ""

def render(nb: dict) -> tuple[str, dict[str, bytes]]:
    "The README's text and the figures it shows, by path."
    parts, figures = [f"<!-- Made from {NBS.name}/index.ipynb by tools/readme.py: edit the notebook. -->"], {}
    for cell in nb["cells"]:
        src = source(cell)
        found = directives(src)
        if "hide" in found or cell["cell_type"] == "raw": continue
        if cell["cell_type"] == "markdown": parts.append(prose(code_only(src)).strip())
        elif code := code_only(src).strip():
            if found.get("echo") != "false" and "hide_input" not in found: parts.append(fence(code, "python"))
            parts += [output(o, figures, found.get("fig-alt", "")) for o in cell["outputs"]]
    return "\n\n".join(o for o in parts if o) + "\n", figures

def main() -> int:
    "Write README.md and its figures, or check them."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if README.md is stale")
    check = parser.parse_args().check
    index = NBS/"index.ipynb"
    if not index.exists(): sys.exit(f"tools/readme.py: there is no {index.relative_to(ROOT)} to render")
    text, figures = render(read_nb(index))
    files = {"README.md": text.encode()} | figures
    stale = [o for o, new in files.items() if not (ROOT/o).exists() or (ROOT/o).read_bytes() != new]
    extra = [p for p in sorted((ROOT/"assets").glob("readme-*.png")) if p.relative_to(ROOT).as_posix() not in figures]
    if check and (stale or extra):
        names = ", ".join([*stale, *(p.relative_to(ROOT).as_posix() for p in extra)])
        sys.exit(f"README is stale: {names} differ from what nbs/index.ipynb says. Run tools/readme.py and commit the result.")
    if check: return 0
    for o in stale:
        (ROOT/o).parent.mkdir(exist_ok=True)
        (ROOT/o).write_bytes(files[o])
    for p in extra: p.unlink()
    print(f"README.md: {'updated' if stale or extra else 'nothing changed'}")
    return 0

if __name__ == "__main__": sys.exit(main())
