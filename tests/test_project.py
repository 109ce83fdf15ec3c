"Checks of the project as a whole: its metadata, its data, its modules and its notebooks. What a module does is tested in its notebook."
import ast
import glob
import importlib
import importlib.metadata
import inspect
import json
import re
import subprocess
import sys
import tempfile
from configparser import ConfigParser
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, NBS, DATA = ROOT/"moca", ROOT/"nbs", ROOT/"moca"/"assets"
MIB = 2**20
modules = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "_modidx.py")
notebooks = sorted(p for p in NBS.rglob("*.ipynb") if not p.relative_to(NBS).as_posix().startswith((".", "_")))

def name_of(path):
    "The dotted name of a module's file."
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")

def each(paths): return pytest.mark.parametrize("path", paths, ids=lambda p: p.relative_to(ROOT).as_posix())

@pytest.fixture(scope="module")
def cfg():
    "settings.ini, as setup.py reads it."
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT/"settings.ini", encoding="utf-8")
    return parser["DEFAULT"]

# --- metadata ------------------------------------------------------------------------------------------------------------

def test_there_is_something_to_check():
    "The lists that the parametrised tests below run over are not empty."
    assert len(modules) > 1 and notebooks

def test_versions_agree(cfg):
    "settings.ini, the package and, where installed, its metadata carry one version."
    assert importlib.import_module("moca").__version__ == cfg["version"]
    try: installed = importlib.metadata.version("moca")
    except importlib.metadata.PackageNotFoundError: return
    assert installed == cfg["version"]

def test_console_scripts_exist(cfg):
    "Each console script points at something that can be called."
    for script in cfg["console_scripts"].split():
        module, _, function = script.partition("=")[2].partition(":")
        assert callable(getattr(importlib.import_module(module), function))

def test_constraints_meet_the_requirements(cfg):
    "Each requirement is pinned in constraints.txt at a version that it allows."
    requirements = pytest.importorskip("packaging.requirements")
    pins = {}
    for line in (ROOT/"constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, _, version = line.partition(";")[0].strip().partition("==")
            pins[name.lower().replace("_", "-")] = version
    for text in " ".join(cfg[k] for k in ("requirements", "dev_requirements", "st_requirements")).split():
        need = requirements.Requirement(text)
        assert pins[need.name.lower().replace("_", "-")] in need.specifier, text

def test_help_tells_the_parameters():
    "The comments beside the parameters of the front door's functions and methods stand in `help()`."
    import moca
    assert "\n    batch: documents that `encode` gets at a time" in moca.evaluate.__doc__
    assert "\nParameters:\n" in moca.Embedder.encode.__doc__ and "\n    lora: " in moca.load_backbone.__doc__

# --- package data --------------------------------------------------------------------------------------------------------

def size(folder): return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())

def test_package_data():
    "The embedded data exists and stays small."
    assert size(DATA) > 0, "moca/assets is empty"
    assert size(DATA/"corpus") <= 16*MIB, f"moca/assets/corpus holds {size(DATA/'corpus')/MIB:.1f} MiB"
    assert size(DATA) <= 30*MIB, f"moca/assets holds {size(DATA)/MIB:.1f} MiB"

def test_package_data_is_packaged():
    "Every file below moca/assets matches a pattern that setup.py gives to the wheel."
    call = next(o for o in ast.walk(ast.parse((ROOT/"setup.py").read_text(encoding="utf-8")))
                if isinstance(o, ast.Call) and getattr(o.func, "id", "") == "setup")
    patterns = ast.literal_eval(next(k.value for k in call.keywords if k.arg == "package_data"))["moca"]
    packed = {Path(p) for o in patterns for p in glob.glob(str(PACKAGE/o), recursive=True)}
    files = {p for p in DATA.rglob("*") if p.is_file()}
    assert files and files <= packed, sorted(files - packed)

# --- modules -------------------------------------------------------------------------------------------------------------

@each(modules)
def test_public_names_have_docstrings(path):
    "Every public function, class and method that a module exports says what it does."
    module = importlib.import_module(name_of(path))
    bare = []
    for name in getattr(module, "__all__", []):
        obj = getattr(module, name)
        if not (inspect.isclass(obj) or inspect.isroutine(obj)) or getattr(obj, "__module__", None) != module.__name__: continue
        if not (obj.__dict__.get("__doc__") if inspect.isclass(obj) else inspect.getdoc(obj)): bare.append(name)
    assert not bare, f"without a docstring: {', '.join(bare)}"

def imports(path):
    "The modules of moca that a module imports, anywhere in its text."
    here, found, known = name_of(path), set(), set(map(name_of, modules))
    package = here if path.name == "__init__.py" else here.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import): found |= {o.name for o in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[:len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{o.name}" for o in node.names}
    return (found & known) - {here, "moca"}

def test_imports_run_one_way():
    "No circle of imports, not even one that is hidden inside functions."
    try: order = list(TopologicalSorter({name_of(p): imports(p) for p in modules}).static_order())
    except CycleError as e: pytest.fail("a circle of imports: " + " <- ".join(e.args[1]))
    assert len(order) == len(modules)

FLOORS = [["style", "masking", "data"], ["model"], ["backbone"], ["embedder", "evaluation"], ["training"],
          ["pretraining", "finetuning", "reconstruction", "contrastive"], ["benchmarks"], ["apps", "studies", "speed"],
          ["commands", "cli", "__main__"]]
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}

def floor(module):
    "How high a module stands: what it imports must not stand higher."
    return FLOOR[module.split(".")[1]]

@each([p for p in modules if p.name != "__init__.py"])
def test_wings_import_downwards(path):
    "A module imports from its own floor and from those below it."
    here = name_of(path)
    wrong = [o for o in sorted(imports(path)) if o.count(".") and floor(o) > floor(here)]
    assert not wrong, f"{here} needs {', '.join(wrong)}"

def test_every_wing_has_its_floor():
    "A new wing or chapter is given a place in FLOORS."
    assert {name_of(p).split(".")[1] for p in modules if p.name != "__init__.py"} == set(FLOOR)

def reached(start, edges):
    "All that can be reached from `start` along edges {name: names}, `start` left out."
    found, todo = set(), [start]
    while todo:
        new = edges[todo.pop()] - found
        found |= new
        todo += new
    return found

@pytest.mark.parametrize("name", sorted(name_of(p) for p in modules if p.name != "__init__.py" and floor(name_of(p)) == 0))
def test_reading_needs_no_model(name):
    "What reads data imports nothing of what models, training and commands are made of, not even through others."
    edges = {name_of(p): imports(p) for p in modules}
    wrong = [o for o in sorted(reached(name, edges)) if floor(o) > 0]
    assert not wrong, f"{name} needs {', '.join(wrong)}"

def test_layers_can_fail():
    "The check above sees an import through another module."
    edges = {name_of(p): imports(p) for p in modules} | {"moca.data.paths": {"moca.embedder"}}
    assert "moca.backbone" in reached("moca.data.rows", edges)

def dangers(tree):
    "The places where a module could run code that came with data."
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("eval", "exec", "torch.load"): yield node.lineno, called
            for k in node.keywords:
                if k.arg in ("trust_remote_code", "allow_pickle") and ast.unparse(k.value) == "True": yield node.lineno, f"{k.arg}=True"
        elif isinstance(node, ast.Dict):
            for k, v in zip(node.keys, node.values):
                if k is not None and ast.unparse(k) == "'trust_remote_code'" and ast.unparse(v) == "True": yield node.lineno, "trust_remote_code"
        elif isinstance(node, ast.Import):
            for o in node.names:
                if o.name.split(".")[0] in ("pickle", "cPickle", "dill", "cloudpickle", "joblib"): yield node.lineno, f"import {o.name}"
        elif isinstance(node, ast.ImportFrom) and not node.level:
            if node.module.split(".")[0] in ("pickle", "cPickle", "dill", "cloudpickle", "joblib"): yield node.lineno, f"from {node.module}"
            if node.module == "torch" and any(o.name == "load" for o in node.names): yield node.lineno, "from torch import load"
        elif isinstance(node, ast.Attribute) and node.attr == "pickle": yield node.lineno, ast.unparse(node)

@each(modules)
def test_runs_no_code_from_data(path):
    "No eval, no pickle, no code from a model's repository."
    found = list(dangers(ast.parse(path.read_text(encoding="utf-8"))))
    assert not found, found

@pytest.mark.parametrize("src", ["eval('1')", "import pickle", "from pickle import loads", "torch.load(f)", "from torch import load",
                                 "f(trust_remote_code=True)", "x = {'trust_remote_code': True}", "np.load(f, allow_pickle=True)"])
def test_dangers_are_seen(src):
    "The check above can fail."
    assert list(dangers(ast.parse(src)))

def test_harmless_code_passes():
    "`model.eval()` and a refusal of remote code are no dangers."
    assert not list(dangers(ast.parse("model.eval()\nload_file(p)\nf(trust_remote_code=False)")))

OWN = {"Embedder", "Encoder", "cls"} # their `from_pretrained` is moca's, and checks the directory
WITHOUT_CODE = {"kind"} # an image processor's class, which runs nothing but itself

def careless(tree):
    "The calls that load something from outside and leave it to a library whether code and pickles may come with it."
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute): continue
        owner, name = ast.unparse(node.func.value).split(".")[-1], node.func.attr
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if name not in ("from_pretrained", "from_config") or owner in OWN | WITHOUT_CODE: continue
        if not owner.startswith("Auto"): yield node.lineno, f"{owner}.{name}: whose is it?"
        if given.get("trust_remote_code") != "False": yield node.lineno, f"{owner}.{name} without trust_remote_code=False"
        if owner.startswith("AutoModel") and name == "from_pretrained" and given.get("use_safetensors") != "True":
            yield node.lineno, f"{owner}.{name} without use_safetensors=True"

@each(modules)
def test_loads_with_care(path):
    "Every loader is told that no code and no pickle may come with a model."
    found = list(careless(ast.parse(path.read_text(encoding="utf-8"))))
    assert not found, found

@pytest.mark.parametrize("src", ["AutoTokenizer.from_pretrained(p)", "AutoConfig.from_pretrained(p, trust_remote_code=x)",
                                 "transformers.AutoModel.from_pretrained(p, trust_remote_code=False)", "AutoModel.from_config(c)",
                                 "Qwen2VLProcessor.from_pretrained(p)"])
def test_careless_loaders_are_seen(src):
    "The check above can fail."
    assert list(careless(ast.parse(src)))

def test_careful_loaders_pass():
    "The same calls with everything said."
    for src in ("AutoModel.from_pretrained(p, trust_remote_code=False, use_safetensors=True)", "Embedder.from_pretrained(p)"):
        assert not list(careless(ast.parse(src)))

def test_hub_data_runs_no_code():
    "The library of data sets has no scripts any more: a version that has would have to be told."
    datasets = pytest.importorskip("datasets")
    assert "trust_remote_code" not in inspect.signature(datasets.load_dataset).parameters

# --- the front door ------------------------------------------------------------------------------------------------------

def test_import_loads_no_torch():
    "`import moca` costs nothing: no torch, no other module of moca; `dir` names what can be asked for."
    code = ("import sys, moca; loaded = sorted(set(sys.modules) & {'torch', 'numpy', 'transformers'}); "
            "print(*loaded, *[o for o in sys.modules if o.startswith('moca.')], *sorted(set(moca.__all__) - set(dir(moca))))")
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert not told.strip(), f"import moca loads, or dir(moca) lacks, {told}"

def test_front_door_is_what_it_says():
    "What type checkers read, what is loaded on demand and `__all__` are one list; every name is there."
    moca = importlib.import_module("moca")
    block = next(o for o in ast.parse((PACKAGE/"__init__.py").read_text(encoding="utf-8")).body if isinstance(o, ast.If))
    typed = {}
    for node in block.body:
        for name in node.names: typed[name.name] = node.module
    assert typed == moca._HOMES and sorted(typed) == moca.__all__
    for name, home in typed.items(): assert getattr(moca, name).__module__ == home, f"{name} is not defined in {home}"
    with pytest.raises(AttributeError): moca.no_such_name

# --- notebooks -----------------------------------------------------------------------------------------------------------

def texts(cell):
    "The text of a cell's outputs; pictures are left out."
    for out in cell.get("outputs", []):
        yield "".join(out.get("text", "")) + "".join(out.get("traceback", ""))
        for kind, value in out.get("data", {}).items():
            if kind.startswith("text/"): yield "".join(value)

machine = re.compile("|".join(["/home/", "/tmp/", "/Users/", r"[A-Z]:\\Users", *(
    re.escape(f"{o}/") for o in {str(ROOT), str(Path.home()), tempfile.gettempdir()} if o.strip("/"))]))

@each(notebooks)
def test_notebook_is_clean(path):
    "No widget state, execution counts, progress bars, colours, errors or paths of some machine in a stored notebook."
    text = path.read_text(encoding="utf-8")
    nb, found = json.loads(text), []
    if "widgets" in nb["metadata"]: found.append("widget state")
    if text != json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + "\n": found.append("not written as nbdev_clean writes it")
    for i, cell in enumerate(nb["cells"]):
        if cell.get("execution_count") is not None: found.append(f"[{i:02d}] execution count")
        for out in cell.get("outputs", []):
            if "application/vnd.jupyter.widget-view+json" in out.get("data", {}): found.append(f"[{i:02d}] widget view")
            if out["output_type"] == "error" or out.get("name") == "stderr": found.append(f"[{i:02d}] error or stderr")
        for o in texts(cell):
            for what, bad in {"progress bar": re.search(r"it/s|\r", o), "colours": "\x1b[" in o, "path of a machine": machine.search(o)}.items():
                if bad: found.append(f"[{i:02d}] {what}")
    assert not found, "; ".join(found) + " (tools/run_nbs.py and nbdev_clean mend most of this)"
