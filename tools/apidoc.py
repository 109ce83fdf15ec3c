"""The API reference as Markdown pages, read from moca's source: nothing is imported, so no torch is needed to build it.

A comment beside a parameter (`x: int, # what it is`) becomes a row of the parameter table, as nbdev's docments have it.
"""
from __future__ import annotations

import ast
import io
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path

from nbrun import NBS, ROOT, read_nb, source

PACKAGE = ROOT/"moca"
_origin = re.compile(r"File to edit: (\S+\.ipynb)")
_LONG = 120 # characters of a constant's value that are shown

@dataclass
class Module:
    "A module of moca, parsed."
    name: str # moca.data.rows
    text: str
    tree: ast.Module
    comments: dict[int, str] # line -> its comment
    notebook: Path | None # where it is written

    @property
    def wing(self) -> str:
        "The folder it lies in; `book` for the modules at the top."
        parts = self.name.split(".")
        return parts[1] if len(parts) > 2 else "book"

def read_module(path: Path) -> Module:
    "Parse the module at `path`."
    text = path.read_text(encoding="utf-8")
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    comments = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT: comments[token.start[0]] = token.string.lstrip("# ").strip()
    origin = _origin.search(text)
    notebook = (path.parent/origin[1]).resolve() if origin else None
    return Module(name, text, ast.parse(text), comments, notebook)

def find_modules() -> list[Module]:
    "Every module that a notebook writes, by name."
    paths = sorted(PACKAGE.rglob("*.py"))
    return [m for m in map(read_module, paths) if m.notebook]

def exported(module: Module) -> list[str]:
    "The names in a module's `__all__`, in its order."
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return []

def heading(notebook: Path) -> tuple[str, str]:
    "Title and subtitle of a notebook, without their marks; empty where there is none."
    cells = read_nb(notebook)["cells"][:2]
    first = "\n\n".join(source(o) for o in cells if o["cell_type"] == "markdown")
    title = re.search(r"^# (.+)$", first, re.M)
    subtitle = re.search(r"^> (.+)$", first, re.M)
    return (title[1].strip() if title else ""), (subtitle[1].strip() if subtitle else "")

# --- parameters ----------------------------------------------------------------------------------------------------------

@dataclass
class Row:
    "A line of a table of parameters."
    name: str
    type: str
    default: str
    comment: str

def shown(node: ast.AST | None) -> str:
    "The source of a node on one line; empty for none."
    return ast.unparse(node) if node is not None else ""

def arguments(args: ast.arguments) -> list[tuple[ast.arg, ast.AST | None, str]]:
    "Each argument with its default and its stars, in order."
    plain = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(plain) - len(args.defaults)) + args.defaults
    found = [(a, d, "") for a, d in zip(plain, defaults)]
    if args.vararg: found.append((args.vararg, None, "*"))
    found += [(a, d, "") for a, d in zip(args.kwonlyargs, args.kw_defaults)]
    if args.kwarg: found.append((args.kwarg, None, "**"))
    return found

def parameter_rows(function: ast.FunctionDef, comments: dict[int, str]) -> list[Row]:
    "What stands beside each parameter; one comment for several on a line goes to the last of them."
    rows, last = [], {}
    for arg, default, stars in arguments(function.args):
        if arg.arg in ("self", "cls"): continue
        line = max(arg.end_lineno, default.end_lineno if default is not None else 0)
        last[line] = len(rows)
        rows.append(Row(stars + arg.arg, shown(arg.annotation), shown(default), ""))
    ends = {function.returns.end_lineno} if function.returns is not None else set()
    for line, i in last.items():
        if line < function.body[0].lineno and line not in ends: rows[i].comment = comments.get(line, "")
    return rows

def field_rows(cls: ast.ClassDef, comments: dict[int, str]) -> list[Row]:
    "The annotated fields of a class, with what stands beside them."
    rows = []
    for node in cls.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name): continue
        if node.target.id.startswith("_"): continue
        comment = comments.get(node.end_lineno, "")
        rows.append(Row(node.target.id, shown(node.annotation), field_default(node.value), comment))
    return rows

def field_default(node: ast.AST | None) -> str:
    "The default of a dataclass's field: of `field(default_factory=list)` it is `list()`."
    if not isinstance(node, ast.Call) or shown(node.func).split(".")[-1] != "field": return shown(node)
    given = {k.arg: shown(k.value) for k in node.keywords}
    if "default_factory" in given: return given["default_factory"] + "()"
    return given.get("default", "")

def code(text: str) -> str:
    "Text as code in a table's cell."
    return f"`` {text} ``".replace("|", "\\|") if "`" in text else f"`{text}`".replace("|", "\\|")

def table(rows: list[Row], what: str = "parameter") -> list[str]:
    "A Markdown table of parameters; nothing where no comment says more than the signature."
    if not any(o.comment for o in rows): return []
    lines = ["", f"| {what} | type | default | meaning |", "|---|---|---|---|"]
    for o in rows:
        cells = [code(o.name), code(o.type) if o.type else "", code(o.default) if o.default else "", text_of(o.comment).replace("|", "\\|")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines

def text_of(comment: str) -> str:
    "A comment as prose: what Markdown would take for a tag or a formula is only text."
    comment = re.sub(r"\[([^\]]+)\]\([^)\s]+\.ipynb[^)]*\)", r"\1", comment) # a link seen from the notebook
    pieces = re.split(r"(`[^`]*`)", comment)
    return "".join(p if p.startswith("`") else re.sub(r"([<>*_$\[\]{}])", r"\\\1", p) for p in pieces)

def returned(function: ast.FunctionDef, comments: dict[int, str]) -> list[str]:
    "What stands beside the return annotation: the comment on its line, or on one between it and the body."
    if function.returns is None: return []
    for line in range(function.returns.end_lineno, function.body[0].lineno):
        if comments.get(line): return ["", f"Returns {code(shown(function.returns))}: {text_of(comments[line])}"]
    return []

# --- pages ---------------------------------------------------------------------------------------------------------------

def signature(function: ast.FunctionDef) -> str:
    "`(a: int, b: int = 0) -> str`, without `self`."
    args = ast.parse(ast.unparse(ast.arguments(**{k: getattr(function.args, k) for k in ast.arguments._fields})
                                 ).join(["def f(", "): ..."])).body[0].args
    for group in (args.posonlyargs, args.args):
        if group and group[0].arg in ("self", "cls"): group.pop(0)
    returns = f" -> {shown(function.returns)}" if function.returns is not None else ""
    return f"({ast.unparse(args)}){returns}"

def prose(node) -> list[str]:
    "A docstring, line by line, what it raises in a paragraph of its own; what Markdown would take for markup is only text."
    lines = []
    for line in (ast.get_docstring(node) or "").splitlines():
        if line.startswith(("Raises ", "Returns ")): lines.append("")
        lines.append(text_of(line))
    return lines

def decorators(node) -> set[str]:
    "The names of a definition's decorators."
    return {shown(o.func if isinstance(o, ast.Call) else o).split(".")[-1] for o in node.decorator_list}

def directive(kind: str, name: str, body: list[str], options: list[str] | None = None, marks: int = 3) -> list[str]:
    "A MyST directive with its content."
    fence = ":" * marks
    return [f"{fence}{{py:{kind}}} {name}", *(options or []), "", *body, fence, ""]

def function_page(node: ast.FunctionDef, comments: dict[int, str], kind: str = "function", marks: int = 3) -> list[str]:
    "A function or method."
    rows = parameter_rows(node, comments)
    body = [*prose(node), *table(rows), *returned(node, comments)]
    found = decorators(node)
    options = [f":{o}:" for o in ("classmethod", "staticmethod") if o in found]
    if "property" in found: return directive("property", node.name, body, None, marks)
    return directive(kind, node.name + signature(node), body, options, marks)

def patched_page(node: ast.FunctionDef, comments: dict[int, str]) -> list[str]:
    "A method that is written outside its class: `@patch def name(self: Class, ...)`."
    owner = shown(node.args.args[0].annotation) if node.args.args else ""
    body = [*prose(node), *table(parameter_rows(node, comments)), *returned(node, comments)]
    return directive("method", f"{owner}.{node.name}{signature(node)}", body) if owner and not node.name.startswith("_") else []

def class_page(node: ast.ClassDef, comments: dict[int, str]) -> list[str]:
    "A class with its fields, its constructor's parameters and its public methods."
    methods = [o for o in node.body if isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef))]
    init = next((o for o in methods if o.name == "__init__"), None)
    head = node.name + (signature(init) if init else "")
    bases = ", ".join(code(shown(o)) for o in node.bases)
    body = prose(node)
    if bases: body += ["", f"Bases: {bases}"]
    body += table(parameter_rows(init, comments)) if init else table(field_rows(node, comments), "field")
    body.append("")
    for method in methods:
        if not method.name.startswith("_"): body += function_page(method, comments, "method", marks=3)
    return directive("class", head, body, marks=5)

def constant_page(node: ast.Assign | ast.AnnAssign, name: str, comments: dict[int, str]) -> list[str]:
    "A constant with its value, where that is short."
    value = shown(node.value)
    body = [text_of(comments.get(node.end_lineno, ""))]
    options = [f":value: {value}"] if len(value) <= _LONG and "\n" not in value else []
    return directive("data", name, body, options)

def definitions(module: Module) -> dict[str, tuple]:
    "The public names that a module defines, with their nodes, in order."
    public, found = set(exported(module)), {}
    for node in module.tree.body:
        names = [node.name] if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)) else []
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        for target in targets: names += [o.id for o in ast.walk(target) if isinstance(o, ast.Name)]
        for name in names:
            if name in public: found[name] = node
    return found

def module_page(module: Module, up: str = "..") -> str:
    "The page of one module; `up` leads from it to the folder of the notebooks."
    title, subtitle = heading(module.notebook)
    there = f"{up}/{module.notebook.relative_to(NBS).as_posix()}"
    lines = [f"# {text_of(module.name)}", "", f"> {text_of(subtitle)}" if subtitle else "", "", f"Written in [{title or there}]({there}).", "",
             f"```{{py:module}} {module.name}", "```", ""]
    for name, node in definitions(module).items():
        if isinstance(node, ast.ClassDef): lines += class_page(node, module.comments)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)): lines += function_page(node, module.comments)
        else: lines += constant_page(node, name, module.comments)
    for node in module.tree.body: # methods that fastcore's patch adds to a class
        if isinstance(node, ast.FunctionDef) and decorators(node) & {"patch", "patch_to"}: lines += patched_page(node, module.comments)
    return "\n".join(lines) + "\n"

def known_names(modules: list[Module]) -> dict[str, str]:
    """The names that prose may call by themselves, with their full names: those that one module alone has, and that are no
    plain words (a class, a name of two words, a name of the front door)."""
    homes: dict[str, list[str]] = {}
    for module in modules:
        for name in definitions(module): homes.setdefault(name, []).append(f"{module.name}.{name}")
    found = {full: full for fulls in homes.values() for full in fulls}
    for name, fulls in homes.items():
        plain = name.islower() and "_" not in name.strip("_") and name not in front_door()
        if len(fulls) == 1 and not plain: found[name] = fulls[0]
    return found

def front_door() -> dict[str, str]:
    "The names of `from moca import ...` and where each is defined, as moca/__init__.py says."
    tree = ast.parse((PACKAGE/"__init__.py").read_text(encoding="utf-8"))
    homes = next(o for o in tree.body if isinstance(o, ast.Assign) and o.targets[0].id == "_HOMES")
    return ast.literal_eval(homes.value)

def first_sentence(module: Module, name: str) -> str:
    "What a definition's docstring says first."
    text = " ".join((ast.get_docstring(definitions(module)[name]) or "").split())
    return re.split(r"(?<=[.;]) ", text)[0].rstrip(";")

def by_wing(modules: list[Module]) -> dict[str, list[Module]]:
    "The modules of each wing, those of the book first."
    wings: dict[str, list[Module]] = {"book": []}
    for module in modules: wings.setdefault(module.wing, []).append(module)
    return wings

def module_table(modules: list[Module]) -> list[str]:
    "Modules with what each is about."
    lines = ["| module | what it is about |", "|---|---|"]
    for module in modules: lines.append(f"| [`{module.name}`]({module.name}.md) | {text_of(heading(module.notebook)[1])} |")
    return lines

def wing_page(wing: str, modules: list[Module]) -> str:
    "The modules of one wing."
    title = "moca: the book" if wing == "book" else f"moca.{wing}"
    tree = ["```{toctree}", ":hidden:", "", *(m.name for m in modules), "```"]
    return "\n".join([f"# {title}", "", *module_table(modules), "", *tree]) + "\n"

def index_page(modules: list[Module]) -> str:
    "The front door, then the modules by wing."
    by_name = {m.name: m for m in modules}
    lines = ["# API reference", "", "What most programs need is imported from `moca` itself; it is loaded when it is first asked for.", "",
             "| `from moca import` | what it is |", "|---|---|"]
    for name, home in front_door().items():
        lines.append(f"| {{py:obj}}`{name} <{home}.{name}>` | {text_of(first_sentence(by_name[home], name))} |")
    lines += ["", "Every public name has a docstring; a comment beside a parameter is a row of its table here. In a notebook, "
              "`name??` shows a function with these comments."]
    wings = by_wing(modules)
    for wing, members in wings.items(): lines += ["", f"## {'The book' if wing == 'book' else wing}", "", *module_table(members)]
    lines += ["", "```{toctree}", ":hidden:", "", *(f"wing-{wing}" for wing in wings), "```"]
    return "\n".join(lines) + "\n"

def write_api(folder: Path) -> int:
    "Write the reference into `folder`, below the folder of the notebooks; the number of its pages."
    folder.mkdir(parents=True)
    modules = find_modules()
    for module in modules: (folder/f"{module.name}.md").write_text(module_page(module), encoding="utf-8")
    wings = by_wing(modules)
    for wing, members in wings.items(): (folder/f"wing-{wing}.md").write_text(wing_page(wing, members), encoding="utf-8")
    (folder/"index.md").write_text(index_page(modules), encoding="utf-8")
    return len(modules) + len(wings) + 1
