#!/usr/bin/env python3
"""Lay out what the documentation is built from: notebooks as they stand, the API reference, the pages of the project.

`tools/docsite.py` writes _docs/source; `make docs` does that and lets Sphinx make _docs/html of it. The order of the pages is that of the
file system: a new notebook, or a renamed one, needs no line here. `tools/docsite.py --list` prints that order and changes nothing.
"""
from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from configparser import ConfigParser
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent)) # its neighbours, also where it is imported by a test
from apidoc import find_modules, heading, known_names, text_of, write_api  # noqa: E402
from nbrun import NBS, ROOT, code_only, counts, directives, find_nbs, read_nb, source, write_nb  # noqa: E402

OUT = ROOT/"_docs"/"source"
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md") # of the root, that become pages
WINGS = { # in reading order, with what each is about; a wing that is not named here comes after them
    "data": ("Data", "From files, tables, archives and the hub to Documents and Pairs, with an account of everything met."),
    "model": ("Model", "Ten families through one door: packing, planning, attention kernels, the probe, saving."),
    "training": ("Training", "One loop for both stages: options, memory, checkpoints, several processes."),
    "pretraining": ("Stage 1", "What is corrupted, the heads that rebuild it, pictures of what is rebuilt."),
    "finetuning": ("Stage 2", "Batches of one task, losses, GradCache, hard negatives."),
    "benchmarks": ("Benchmarks", "Baselines, MMEB, ViDoRe, moca-bench and mteb."),
    "apps": ("Applications", "What is built on an Embedder: a corpus embedded, searched, served on a page."),
    "studies": ("Studies", "What is run to learn something: quickstart, ablation, reports."),
    "speed": ("Speed", "moca against other ways to do the same work, equality first."),
    "commands": ("Commands", "The command line, from its grammar to completion."),
    "howto": ("How-to", "One task a page, with code that runs."),
    "solutions": ("Solutions", "Answers to the exercises at the ends of the chapters."),
}
LOOKED_UP = ("howto", "solutions") # folders that are looked up, not read through
ABOUT = ("glossary", "reproduction") # notebooks at the top that are looked up, not read through

# --- links ---------------------------------------------------------------------------------------------------------------

_link = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()(?![a-z][a-z0-9+.-]*:|[/<])([^)\s#]*)((?:#[^)\s]*)?)(?=[)\s])")
_code = re.compile(r"(^ *(?P<fence>```+|~~~+).*?^ *(?P=fence)`* *$|`+[^`\n]*`+)", re.M | re.S)

def links(text: str) -> list[tuple[str, str]]:
    "The links of a Markdown text that lead to files or headings: (file, fragment); code has none."
    return [(m[2], m[3].lstrip("#")) for m in _link.finditer(_code.sub("", text))]

def relink(text: str, change) -> str:
    "A Markdown text with every link (file, fragment) to a file changed by `change`; code stays as it is."
    def replaced(m): return m[1] + change(m[2], m[3])
    pieces, end = [], 0
    for m in _code.finditer(text):
        pieces += [_link.sub(replaced, text[end:m.start()]), m[0]]
        end = m.end()
    return "".join([*pieces, _link.sub(replaced, text[end:])])

_name = re.compile(r"(?<![`\w\[}])`([A-Za-z_][\w.]*)(\(\))?`(?![`\]])")

def link_names(text: str, names: dict[str, str]) -> str:
    "A Markdown text in which inline code that is a public name leads to the reference; headings and code blocks stay as they are."
    def linked(m): return f"{{py:obj}}`{m[1]} <{names[m[1]]}>`" if m[1] in names else m[0]
    lines, fence = [], ""
    for line in text.split("\n"):
        mark = re.match(r" *(```+|~~~+)", line)
        if mark and not fence: fence = mark[1]
        elif mark and mark[1].startswith(fence): fence = ""
        elif not fence and not line.startswith("#"): line = _name.sub(linked, line)
        lines.append(line)
    return "\n".join(lines)

def anchor(title: str) -> str:
    "The fragment of a heading as JupyterLab makes it."
    return re.sub(r"[`*]", "", title).strip().replace(" ", "-")

def slug(fragment: str) -> str:
    "The same fragment as the site makes it, which is GitHub's way."
    return re.sub(r"[^\w\- ]", "", fragment.lower()).replace(" ", "-")

def settings():
    "settings.ini, as setup.py reads it."
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT/"settings.ini", encoding="utf-8")
    return parser["DEFAULT"]

def target(base: Path, at: Path, file: str, fragment: str, images: set[Path]) -> str:
    """Where a link of the page `at` (below the site's root) leads there, when in the repository it leads from `base` to `file`.
    What has no page is on GitHub."""
    if not file: return "#" + slug(fragment.lstrip("#"))
    path, fragment = (base/file).resolve(), "#" + slug(fragment[1:]) if fragment else ""
    if path.suffix in (".png", ".svg", ".jpg") and path.is_relative_to(NBS):
        images.add(path)
        page = path.relative_to(NBS)
    elif path.is_relative_to(NBS) and path.suffix == ".ipynb": page = path.relative_to(NBS)
    elif path.is_relative_to(NBS) and path.is_dir() and path.name in wings(): page = path.relative_to(NBS)/"index.md"
    elif path.is_relative_to(ROOT) and path.relative_to(ROOT).as_posix() in PAGES: page = Path(path.name.lower())
    else:
        cfg = settings()
        kind = "tree" if path.is_dir() else "blob"
        return f"{cfg['git_url']}/{kind}/{cfg['branch']}/{path.relative_to(ROOT).as_posix()}{fragment}"
    return os.path.relpath(page, at.parent).replace(os.sep, "/") + fragment

# --- pages ---------------------------------------------------------------------------------------------------------------

def wings() -> dict[str, list[Path]]:
    "Folders of notebooks in reading order, with their notebooks."
    found = {}
    for path in find_nbs():
        if path.parent != NBS: found.setdefault(path.parent.name, []).append(path)
    order = [*(o for o in WINGS if o in found), *sorted(set(found) - set(WINGS))]
    return {name: found[name] for name in order}

def chapters() -> tuple[list[str], list[str], list[str]]:
    "The notebooks at the top by name: the book, the front doors, and what is looked up."
    names = [p.stem for p in find_nbs() if p.parent == NBS and p.stem != "index"]
    book = [o for o in names if o[:2].isdigit()]
    about = [o for o in ABOUT if o in names]
    return book, [o for o in names if o not in book and o not in about], about

def toctree(entries: list[str], caption: str = "") -> str:
    "A hidden toctree, which makes the site's sidebar and its order."
    head = [f":caption: {caption}"] if caption else []
    return "\n".join(["```{toctree}", ":hidden:", *head, "", *entries, "```"])

def trees() -> list[str]:
    "The toctrees of the first page."
    book, doors, about = chapters()
    workshop = [f"{o}/index" for o in wings() if o not in LOOKED_UP]
    aside = [f"{o}/index" for o in wings() if o in LOOKED_UP]
    pages = [p.lower().removesuffix(".md") for p in PAGES if (ROOT/p).exists()]
    return [toctree(book, "The book"), toctree([*doors, *workshop], "The workshop"), toctree([*aside, "api/index", *about, *pages], "To look up")]

def site_nb(path: Path, images: set[Path], names: dict[str, str]) -> dict:
    """A notebook as the site shows it: without directives and hidden cells, its links seen from its page, public names linked to the
    reference."""
    nb, cells = read_nb(path), []
    for cell in nb["cells"]:
        src = source(cell)
        found = directives(src) if cell["cell_type"] == "code" else {}
        if "hide" in found or cell["cell_type"] == "raw": continue
        if cell["cell_type"] == "markdown":
            at = path.relative_to(NBS)
            src = relink(src, lambda file, fragment: target(path.parent, at, file, fragment, images))
            cell["source"] = link_names(src, names)
        elif not code_only(src).strip(): continue
        else:
            cell["source"] = code_only(src)
            if found.get("echo") == "false" or "hide_input" in found: cell["metadata"]["tags"] = ["remove-input"]
            elif not counts(cell["source"]): cell["metadata"]["tags"] = ["hide-input"] # imports, which a click unfolds
            if "fig-alt" in found: cell["metadata"]["mystnb"] = {"image": {"alt": found["fig-alt"]}}
            cell["outputs"] = [site_output(o, path, images) for o in cell["outputs"]]
        cells.append(cell)
    nb["cells"] = cells
    nb["metadata"].setdefault("language_info", {"name": "python"})
    return nb

def site_output(output: dict, path: Path, images: set[Path]) -> dict:
    "A stored output, its Markdown's links seen from the page."
    data = output.get("data", {})
    if "text/markdown" in data:
        at = path.relative_to(NBS)
        text = "".join(data["text/markdown"])
        data["text/markdown"] = relink(text, lambda file, fragment: target(path.parent, at, file, fragment, images))
    return output

def wing_page(name: str, notebooks: list[Path]) -> str:
    "The first page of a wing: its notebooks in order, each with its sentence."
    title, about = WINGS.get(name, (name.capitalize(), ""))
    lines = [f"# {title}", "", about, "", "| notebook | what it is about |", "|---|---|"]
    for path in notebooks:
        head, sentence = heading(path)
        lines.append(f"| [{head or path.stem}]({path.name}) | {text_of(sentence)} |")
    tree = toctree([o.stem for o in notebooks])
    return "\n".join([*lines, "", tree]) + "\n"

def lay_out(out: Path = OUT) -> int:
    "Write everything that Sphinx needs into `out`, anew; the number of pages."
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(ROOT/"docs", out)
    images: set[Path] = set()
    names = known_names(find_modules())
    for path in find_nbs():
        nb = site_nb(path, images, names)
        if path == NBS/"index.ipynb":
            nb["cells"].append(dict(cell_type="markdown", id="contents", metadata={}, source="\n\n".join(trees())))
        page = out/path.relative_to(NBS)
        page.parent.mkdir(parents=True, exist_ok=True)
        write_nb(nb, page)
    for name, notebooks in wings().items(): (out/name/"index.md").write_text(wing_page(name, notebooks), encoding="utf-8")
    for name in PAGES:
        if not (ROOT/name).exists(): continue
        text = (ROOT/name).read_text(encoding="utf-8")
        at = Path(name.lower())
        (out/at).write_text(relink(text, lambda file, fragment: target(ROOT, at, file, fragment, images)), encoding="utf-8")
    for path in images:
        (out/path.relative_to(NBS)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out/path.relative_to(NBS))
    return write_api(out/"api") + sum(1 for p in out.rglob("*") if p.suffix in (".ipynb", ".md") and p.parent.name != "api")

def reading_order() -> list[Path]:
    "Every notebook in the order of the site, the first page first."
    book, doors, about = chapters()
    workshop = [o for notebooks in wings().values() for o in notebooks]
    return [NBS/"index.ipynb", *(NBS/f"{o}.ipynb" for o in (*book, *doors)), *workshop, *(NBS/f"{o}.ipynb" for o in about)]

def main() -> int:
    "Lay out the site, or print its order."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the notebooks in reading order; change nothing")
    if parser.parse_args().list:
        for path in reading_order(): print(f"{path.relative_to(NBS).as_posix():40s} {heading(path)[0]}")
        return 0
    print(f"{lay_out()} pages in {OUT.relative_to(ROOT)}")
    return 0

if __name__ == "__main__": sys.exit(main())
