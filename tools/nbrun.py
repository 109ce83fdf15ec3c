"What pytest (conftest.py) and run_nbs.py share: a notebook's cells, which of them may run here, and a kernel to run them in."
from __future__ import annotations

import ast
import contextlib
import functools
import json
import multiprocessing
import os
import queue
import re
import signal
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

from jupyter_client import BlockingKernelClient, KernelManager
from jupyter_client.connect import write_connection_file

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/"nbs"
TIMEOUT = float(os.environ.get("MOCA_CELL_TIMEOUT", 600)) # seconds a cell may take
_ansi = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_directive = re.compile(r"\s*#\s*\|\s*(.*)")

def flag(name: str) -> bool:
    "Is the environment variable `name` set, and not to 0?"
    return os.environ.get(name, "") not in ("", "0")

def strip_ansi(text: str) -> str:
    "`text` without terminal colours."
    return _ansi.sub("", text)

def read_nb(path) -> dict:
    "The notebook at `path` as plain JSON."
    return json.loads(Path(path).read_text(encoding="utf-8"))

def write_nb(nb: dict, path) -> bool:
    "Write `nb` as nbdev does, only where it differs; says whether it did."
    text, path = json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + "\n", Path(path)
    if path.exists() and path.read_text(encoding="utf-8") == text: return False
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return True

def find_nbs(folder=NBS) -> list[Path]:
    "The notebooks below `folder` in reading order, without hidden and private ones."
    found = Path(folder).rglob("*.ipynb")
    return sorted(p for p in found if not any(o.startswith((".", "_")) for o in p.relative_to(folder).parts))

def source(cell: dict) -> str:
    "A cell's text."
    return "".join(cell["source"])

def directives(src: str) -> dict[str, str]:
    "The leading `#| name: value` lines of a cell, as nbdev reads them."
    found = {}
    for line in src.splitlines():
        if not line.strip() or line.startswith("%%"): continue
        if not (m := _directive.match(line)): break
        name, _, value = m[1].strip().replace(":", " ", 1).partition(" ")
        if name: found[name] = value.strip()
    return found

def code_only(src: str) -> str:
    "A cell's text without its directive lines."
    lines = src.splitlines()
    while lines and (not lines[0].strip() or _directive.match(lines[0])): lines.pop(0)
    return "\n".join(lines)

def first_line(src: str) -> str:
    "The line that names a cell: its first that is no directive, comment, import or magic, if it has one."
    lines = [o.strip().replace("::", ":")[:48] for o in code_only(src).splitlines() if o.strip()]
    return next((o for o in lines if not re.match(r"#|%|@|import |from ", o)), (lines or ["directives"])[0])

def _is_export(node) -> bool:
    "Is this statement the customary `nbdev_export()` at a notebook's end?"
    return (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
            and ast.unparse(node.value.func).split(".")[-1] == "nbdev_export")

def statements(src: str) -> list | None:
    "The statements of a cell that are neither imports nor line magics; None where it is not plain Python (`!` and `%%`)."
    for text in (src, re.sub(r"(?m)^%(?!%).*$", "", src)):
        try: return [o for o in ast.parse(text).body if not isinstance(o, (ast.Import, ast.ImportFrom))]
        except SyntaxError: pass

def counts(src: str) -> bool:
    "Does this cell do anything that can be tested? Comments, directives and imports alone do not."
    body = statements(src)
    return body is None or not all(map(_is_export, body))

@functools.cache
def has_cuda() -> bool:
    "Is there a GPU that PyTorch can use?"
    import torch
    return torch.cuda.is_available()

gates = dict( # directive -> may such a cell run here?, and the reason if not
    notest=(lambda: False, "notest: never run by tests"),
    cuda=(has_cuda, "needs a CUDA GPU"),
    slow=(lambda: flag("MOCA_SLOW"), "slow: set MOCA_SLOW=1"))

def why_not(src: str) -> str | None:
    "Why this cell may not run here, or None if it may."
    found = directives(src)
    if found.get("eval", "").lower() == "false": return "eval: false"
    for name, (allowed, reason) in gates.items():
        if name in found and not allowed(): return reason
    body = statements(src)
    if body and all(map(_is_export, body)): return "exports the library: call nbdev_export from a terminal"

class CellError(Exception):
    "A cell that raised, or that ran out of time; the message is its traceback without colours."

def kernel_args(connection_file: str) -> list[str]:
    "The arguments that a kernel is started with."
    return ["-f", connection_file, "--HistoryManager.enabled=False", "--log-level=ERROR"]

def kernel_env() -> dict[str, str]:
    "The environment of a kernel: offline, with this very checkout of `moca`."
    env = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
    path = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    return env | dict(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", PYDEVD_DISABLE_FILE_VALIDATION="1", PYTHONPATH=path)

class FreshKernel:
    "A kernel as Jupyter starts it: a new Python."
    def __init__(self, cwd):
        self.km = KernelManager(kernel_name="python3")
        self.km.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", *kernel_args("{connection_file}")]
        self.km.start_kernel(cwd=str(cwd), env=kernel_env())

    def client(self): return self.km.client()
    def is_alive(self) -> bool: return self.km.is_alive()
    def interrupt(self): self.km.interrupt_kernel()

    def end(self):
        self.km.shutdown_kernel(now=True)
        self.km.cleanup_resources()

PRELOAD = ["ipykernel.ipkernel", "IPython.core.completer", "ipywidgets", "numpy", "torch", "torch.utils.data", "transformers", "datasets",
           "accelerate", "peft", "safetensors.torch", "matplotlib.pyplot", "PIL.Image", "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
           "transformers.models.qwen2_5_vl.processing_qwen2_5_vl", "transformers.models.qwen2.tokenization_qwen2"]

class ForkedKernel:
    """A kernel forked from multiprocessing's fork server, one for each process that tests: it has imported what most notebooks import
    (never `moca`), so that a kernel is ready in a moment. It leads a group of its own, which ends with it."""
    def __init__(self, cwd):
        context = multiprocessing.get_context("forkserver")
        self.file, _ = write_connection_file(kernel_name="python3")
        context.set_forkserver_preload(PRELOAD)
        with _environ(kernel_env() | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}):
            forkserver.ensure_running()
        self.process = context.Process(target=_forked, args=(self.file, str(cwd), kernel_env()))
        self.process.start()

    def client(self):
        client = BlockingKernelClient(connection_file=self.file)
        client.load_connection_file()
        return client

    def is_alive(self) -> bool: return self.process.is_alive()
    def interrupt(self): os.kill(self.process.pid, signal.SIGINT)

    def end(self):
        "Kill the kernel and all that it has started."
        with contextlib.suppress(ProcessLookupError): os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill() # where it had no time to lead a group
        self.process.join()
        self.process.close()
        Path(self.file).unlink(missing_ok=True)

@contextlib.contextmanager
def _environ(env: dict[str, str]):
    "Have this environment for a while."
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(env)
    try: yield
    finally:
        os.environ.clear()
        os.environ.update(before)

def _forked(file: str, cwd: str, env: dict[str, str]):
    "What a forked process does: become the kernel of `file`."
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    nowhere = os.open(os.devnull, os.O_RDWR) # a worker that outlives its kernel holds no pipe of the tests
    for fd in (0, 1, 2): os.dup2(nowhere, fd)
    multiprocessing.set_start_method(None, force=True) # a notebook's own workers start as they always do
    multiprocessing.current_process().name = "MainProcess"
    sys.path[:] = [*env["PYTHONPATH"].split(os.pathsep), *(o for o in sys.path if o.startswith((sys.prefix, sys.base_prefix)))]
    from ipykernel.kernelapp import IPKernelApp
    IPKernelApp.launch_instance(argv=[*kernel_args(file), f"--IPKernelApp.parent_handle={os.getppid()}"])

class Kernel:
    "One kernel of this very Python, to be used in a `with` or shut down by hand."
    def __init__(self,
        cwd=NBS, # the kernel's working directory
        coverage: str | Path | None = None, # data file to record the line coverage of `moca` in
        forked: bool = False, # fork it from a process that has imported the large libraries, which saves seconds?
    ):
        self.coverage = coverage
        self.process = (ForkedKernel if forked else FreshKernel)(cwd)
        try:
            self.kc = self.process.client()
            self.kc.start_channels()
            self.kc.wait_for_ready(timeout=120)
            if coverage: self.run(_cov_start.format(data=str(coverage), config=str(ROOT/"pyproject.toml")), hidden=True)
        except BaseException:
            self.coverage = None
            self.shutdown()
            raise

    def __enter__(self): return self
    def __exit__(self, *args): self.shutdown()

    def shutdown(self):
        "End the kernel, whatever state it is in."
        try:
            if self.coverage and self.process.is_alive(): self.run(_cov_stop, timeout=60, hidden=True)
        except CellError: pass
        finally:
            if hasattr(self, "kc"): self.kc.stop_channels()
            self.process.end()

    def run(self,
        src: str, # the cell's text
        timeout: float | None = None, # seconds; None takes MOCA_CELL_TIMEOUT
        hidden: bool = False, # leave no trace in the kernel's history
    ) -> list[dict]: # the cell's outputs, as a notebook stores them
        "Run one cell; raises `CellError` if it fails."
        timeout = timeout or TIMEOUT
        end, outputs = time.monotonic() + timeout, _Outputs()
        msg_id = self.kc.execute(src, silent=hidden, store_history=not hidden, allow_stdin=False, stop_on_error=False)
        while not outputs.idle:
            try: msg = self.kc.get_iopub_msg(timeout=min(1, max(.01, end - time.monotonic())))
            except queue.Empty:
                if not self.process.is_alive(): raise CellError("the kernel died (out of memory, or a crash in native code)") from None
                if time.monotonic() < end: continue
                self._interrupt(msg_id)
                raise CellError(f"timed out after {timeout:g} s (MOCA_CELL_TIMEOUT)") from None
            if msg["parent_header"].get("msg_id") == msg_id: outputs.add(msg["msg_type"], msg["content"])
        if outputs.error: raise CellError(outputs.error)
        return outputs.cell

    def _interrupt(self, msg_id):
        "Stop a cell that is out of time, so that the kernel can still save its coverage and leave."
        self.process.interrupt()
        end = time.monotonic() + 5
        while time.monotonic() < end:
            try: msg = self.kc.get_iopub_msg(timeout=1)
            except queue.Empty: continue
            if msg["parent_header"].get("msg_id") == msg_id and msg["content"].get("execution_state") == "idle": return
        self.coverage = None # it does not listen: shutdown kills it

class _Outputs:
    "Turn a kernel's messages into a cell's outputs. What goes into an Output widget is shown by no stored page: dropped."
    def __init__(self): self.cell, self.idle, self.error, self.wait, self.widgets = [], False, "", False, set()

    def add(self, kind: str, content: dict):
        if kind == "status": self.idle = content["execution_state"] == "idle"
        elif kind == "error":
            lines = content["traceback"] or [f"{content['ename']}: {content['evalue']}"]
            self.error = self.error or strip_ansi("\n".join(lines))
        elif kind in ("comm_open", "comm_msg"): self._widget(content)
        elif kind == "comm_close": self.widgets.discard(content["comm_id"])
        elif self.widgets: return
        elif kind == "clear_output":
            self.wait = content["wait"]
            if not self.wait: self.cell.clear()
        elif kind == "update_display_data":
            for o in self.cell:
                if o.get("_id") and o["_id"] == content.get("transient", {}).get("display_id"): o["data"] = content["data"]
        elif kind in ("stream", "display_data", "execute_result"):
            if self.wait: self.cell.clear(); self.wait = False
            self._output(kind, content)

    def _widget(self, content):
        "An Output widget captures while its state holds a message id."
        state = content["data"].get("state", {})
        if "msg_id" in state: (self.widgets.add if state["msg_id"] else self.widgets.discard)(content["comm_id"])

    def _output(self, kind, content):
        last = self.cell[-1] if self.cell else {}
        if kind != "stream":
            out = dict(output_type=kind, data=content["data"], metadata=content["metadata"])
            if kind == "execute_result": out["execution_count"] = None
            self.cell.append(out | {"_id": content.get("transient", {}).get("display_id")})
        elif last.get("name") == content["name"]: last["text"] += content["text"]
        else: self.cell.append(dict(output_type="stream", name=content["name"], text=content["text"]))

# `__main__` is what the notebook's cells see: the measuring lives in a module of its own
_cov_start = """
import sys as _s, types as _t; _s.modules["_moca_cov"] = _t.ModuleType("_moca_cov")
import coverage as _c; _s.modules["_moca_cov"].cov = _c.Coverage(data_file={data!r}, config_file={config!r}, source_pkgs=["moca"])
_s.modules["_moca_cov"].cov.start(); del _s, _t, _c
"""
_cov_stop = """
import _moca_cov; _moca_cov.cov.stop(); _moca_cov.cov.save()
"""
