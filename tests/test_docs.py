"Checks of the pages: titles, links, the site's layout, the commands that are shown. None of them needs Sphinx."
import ast
import itertools
import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/"tools"))
import apidoc  # noqa: E402
import docsite  # noqa: E402
import nav  # noqa: E402
import nbrun  # noqa: E402

def each(paths): return pytest.mark.parametrize("path", paths, ids=lambda p: p.relative_to(ROOT).as_posix())

# --- pages ---------------------------------------------------------------------------------------------------------------

@each(nbrun.find_nbs())
def test_title_and_subtitle(path):
    "A notebook begins with a title, and one sentence under it."
    title, subtitle = apidoc.heading(path)
    assert title, "the first cell has no `# Title`"
    assert subtitle, "no `> one sentence` under the title"

@each(nav.pages())
def test_links_lead_somewhere(path):
    "Every link to a file, a notebook or a heading has a target."
    wrong = nav.wrong_links(path)
    assert not wrong, "; ".join(wrong) + " (tools/nav.py --fix mends what a new number broke)"

def test_dead_links_are_seen(tmp_path):
    "The check above can fail, and code is no link."
    page = tmp_path/"page.md"
    page.write_text("# A title\n[a](b.md) [c](#A-title) [d](#a-title) [e](#none) `[f](g.md)` [h](https://example.com)\n```\n[i](j.md)\n```\n")
    assert nav.wrong_links(page) == ["b.md does not exist", " has no heading #none"]

def test_new_numbers_are_mended(tmp_path):
    "A link follows a notebook to its new number, and is left alone where that is not clear."
    (tmp_path/"wing").mkdir()
    (tmp_path/"wing"/"07_rows.ipynb").write_text("")
    page = tmp_path/"page.md"
    page.write_text("[a](wing/05_rows.ipynb#x) [b](wing/05_gone.ipynb)")
    assert nav.mend(page)
    assert page.read_text() == "[a](wing/07_rows.ipynb#x) [b](wing/05_gone.ipynb)"

def test_notebooks_are_renumbered(tmp_path):
    "Letters become numbers without gaps, and the number that a link's text shows follows."
    for name in ("01_a", "01b_b", "02_c", "05_d"): (tmp_path/f"{name}.ipynb").write_text(name)
    nav.renumber(tmp_path)
    assert {p.name: p.read_text() for p in tmp_path.glob("*.ipynb")} == {
        "01_a.ipynb": "01_a", "02_b.ipynb": "01b_b", "03_c.ipynb": "02_c", "04_d.ipynb": "05_d"}
    text = nav.mended(tmp_path/"page.md", "[wing/02_c](02_c.ipynb), `02_c`, [01_a](01_a.ipynb)")
    assert text == "[wing/03_c](03_c.ipynb), `03_c`, [01_a](01_a.ipynb)"

def test_version_is_told_once():
    "The citation and the changelog know the version of settings.ini."
    version = docsite.settings()["version"]
    assert re.search(r"^version: (.+)$", (ROOT/"CITATION.cff").read_text(encoding="utf-8"), re.M)[1] == version
    assert version in (ROOT/"CHANGELOG.md").read_text(encoding="utf-8")

# --- the front page ------------------------------------------------------------------------------------------------------

def test_front_page_names_every_wing():
    "A folder of notebooks is linked on the front page; solutions are linked where the exercises are."
    linked = {file.strip("/") for text in nav.texts(nbrun.NBS/"index.ipynb") for file, _ in docsite.links(text)}
    assert not set(docsite.wings()) - linked - {"solutions"}

def shown_commands():
    "Every `moca ...` line of a shell block on a page, with the page."
    for path in nav.pages():
        for text in nav.texts(path):
            for block in re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S):
                for line in re.findall(r"^(?:accelerate launch -m moca\.cli|OMP_NUM_THREADS=1 moca|moca) .*$", block, re.M):
                    yield path.relative_to(ROOT).as_posix(), line.removeprefix("OMP_NUM_THREADS=1 ")

def test_shown_commands_are_understood(capsys):
    "What a page tells a reader to type is accepted by the parser of commands."
    from moca.cli import parser
    from moca.commands.grammar import settle
    commands = sorted(set(shown_commands()))
    assert len(commands) > 10
    for page, line in commands:
        words = shlex.split(line.replace("accelerate launch -m moca.cli", "moca"), comments=True)[1:]
        words = list(itertools.takewhile(lambda o: o not in (">", "|", "&&"), words)) # what the shell does is the shell's
        try: settle(*parser().parse_known_args(words))
        except BaseException as e: pytest.fail(f"{page}: {line}: {e or capsys.readouterr().err}")

# --- the site ------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The site laid out, without Sphinx."
    out = tmp_path_factory.mktemp("site")/"source"
    docsite.lay_out(out)
    return out

def listed(page):
    "The pages that the toctrees of a page list."
    text = "\n\n".join(nav.texts(page))
    for block in re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.M | re.S):
        for line in block.splitlines():
            if not line.strip() or line.startswith(":"): continue
            found = [page.parent/f"{line}{suffix}" for suffix in (".ipynb", ".md")]
            yield next((o for o in found if o.exists()), page.parent/line)

def test_every_page_is_in_the_sidebar_once(site):
    "No page is left out of the site's order, none is listed twice, none is missing."
    pages = {p for p in site.rglob("*") if p.suffix in (".ipynb", ".md")}
    found = [o for page in pages for o in listed(page)]
    assert len(found) == len(set(found))
    assert set(found) | {site/"index.ipynb"} == pages

def test_links_of_the_site_lead_somewhere(site):
    "Links that were moved from the repository to the site have a target there."
    wrong = {}
    for path in [p for p in site.rglob("*") if p.suffix in (".ipynb", ".md")]:
        gone = [file for text in nav.texts(path) for file, _ in docsite.links(text) if file and not (path.parent/file).exists()]
        if gone: wrong[path.relative_to(site).as_posix()] = gone
    assert not wrong

def test_reference_is_complete():
    "Every exported name of every module has its entry."
    for module in apidoc.find_modules():
        missing = set(apidoc.exported(module)) - set(apidoc.definitions(module))
        assert not missing, f"{module.name}: {missing}"

def test_comments_become_rows():
    "A comment beside a parameter or a return value is where it belongs."
    text = 'def f(a: int, # first\n      b: str = "x", c=1, # last\n      d=None) -> int: # back\n    "Doc."\n'
    comments = {1: "first", 2: "last", 3: "back"}
    node = ast.parse(text).body[0]
    assert {o.name: o.comment for o in apidoc.parameter_rows(node, comments)} == dict(a="first", b="", c="last", d="")
    assert apidoc.returned(node, comments)[1].endswith(": back")
    assert apidoc.signature(node) == "(a: int, b: str='x', c=1, d=None) -> int"

def test_fields_show_their_defaults():
    "What a dataclass's field starts from is shown as a value."
    text = "class A:\n    x: list = field(default_factory=list)\n    y: int = dataclasses.field(default=3, repr=False)\n    z: int = 1\n"
    rows = apidoc.field_rows(ast.parse(text).body[0], {})
    assert [o.default for o in rows] == ["list()", "3", "1"]

def test_patched_methods_have_entries():
    "A method that is written outside its class is shown as the class's."
    node = ast.parse('@patch\ndef area(self: Shape, unit: str) -> float: "Its area."').body[0]
    assert apidoc.patched_page(node, {})[0] == ":::{py:method} Shape.area(unit: str) -> float"
