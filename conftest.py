"""Notebooks as tests: one kernel a notebook, one test a code cell, nbdev's directives honoured.

A kernel is forked from a process that has imported torch and its like; MOCA_FRESH=1 starts each as Jupyter does, which takes seconds more.
MOCA_SLOW=1 runs `#| slow` cells, MOCA_CELL_TIMEOUT limits a cell (seconds, 600), MOCA_COV=1 (with `-n 0`) prints the line coverage of `moca`
over the notebooks and the ordinary tests. `#| cuda` cells run where there is a GPU; `#| eval: false` and `#| notest` cells never.
"""
from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT/"tools"))
import nbrun  # noqa: E402

def pytest_collect_file(file_path: Path, parent):
    "Collect the notebooks below nbs/."
    if file_path in nbrun.find_nbs(): return Notebook.from_parent(parent, path=file_path)

class Notebook(pytest.File):
    "A notebook with its kernel, which starts at the first cell that runs and ends with the last."
    def collect(self):
        self.cells = [nbrun.source(o) if o["cell_type"] == "code" else "" for o in nbrun.read_nb(self.path)["cells"]]
        shown = [i for i, o in enumerate(self.cells) if o.strip()]
        tests = [i for i in shown if nbrun.counts(self.cells[i])] or shown[-1:]
        for i, end in zip(tests, [*tests[1:], len(self.cells)]):
            yield Cell.from_parent(self, name=f"[{i:02d}] {nbrun.first_line(self.cells[i])}", index=i, last=i if end < len(self.cells) else end - 1)

    def setup(self):
        self.kernel, self.done, self.failed = None, 0, None

    def teardown(self):
        if self.kernel: self.kernel.shutdown()

    def run_to(self, last: int):
        "Run all cells up to `last` that have not run yet: a test's own cell, and what stands before it."
        for i in range(self.done, last + 1):
            src, self.done = self.cells[i], i + 1
            if not src.strip() or nbrun.why_not(src): continue
            try:
                if not self.kernel: self.kernel = nbrun.Kernel(self.path.parent, _coverage_file(self.path.stem), forked=not nbrun.flag("MOCA_FRESH"))
                self.kernel.run(src)
            except nbrun.CellError as e:
                self.failed = i
                raise CellFailed(i, src, str(e)) from None
            except BaseException:
                self.failed = i
                raise

class CellFailed(Exception):
    "Carries a failed cell to the report."
    def __init__(self, index, src, trace): self.index, self.src, self.trace = index, src, trace

class Cell(pytest.Item):
    "One code cell; cells of imports and comments before it run with it."
    def __init__(self, *, index: int, last: int, **kwargs):
        super().__init__(**kwargs)
        self.index, self.last = index, last

    def runtest(self):
        nb = self.parent
        if nb.failed is not None: self._skip(f"cell [{nb.failed:02d}] of this notebook failed")
        reason = nbrun.why_not(nb.cells[self.index])
        if not reason or self.last > self.index: nb.run_to(self.last)
        if reason: self._skip(reason)

    def _skip(self, reason): raise pytest.skip.Exception(reason, _use_item_location=True)

    def repr_failure(self, excinfo):
        if not isinstance(excinfo.value, CellFailed): return super().repr_failure(excinfo)
        e = excinfo.value
        numbered = "\n".join(f"{n:4d}  {line}" for n, line in enumerate(e.src.splitlines(), 1))
        return f"{e.trace.splitlines()[-1]}\n\n{self.path.name}, cell [{e.index:02d}]:\n\n{numbered}\n\n{e.trace}"

    def reportinfo(self):
        return self.path, 0, self.name

# --- coverage of the library, in the kernels and in this process ---------------------------------------------------------

_cov = {}

def _coverage_file(name: str) -> str | None:
    return str(Path(_cov["dir"])/f".coverage.{name}") if _cov else None

def pytest_configure(config):
    if not nbrun.flag("MOCA_COV"): return
    import coverage
    _cov["dir"] = tempfile.mkdtemp(prefix="moca-cov-")
    _cov["here"] = coverage.Coverage(_coverage_file("pytest"), config_file=str(ROOT/"pyproject.toml"), source_pkgs=["moca"])
    _cov["here"].start()

@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    if not _cov: return
    import coverage
    _cov["here"].stop(); _cov["here"].save()
    table = io.StringIO()
    try:
        cov = coverage.Coverage(str(ROOT/".coverage"), config_file=str(ROOT/"pyproject.toml"))
        cov.combine([_cov["dir"]])
        cov.save()
        cov.report(file=table)
    except coverage.CoverageException as e: table.write(f"no coverage: {e}\n")
    terminalreporter.section("line coverage of moca")
    terminalreporter.write(table.getvalue())

def pytest_unconfigure(config):
    if _cov: shutil.rmtree(_cov["dir"], ignore_errors=True)
