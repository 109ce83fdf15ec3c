"""sentence-transformers opens what moca saves, and gives its vectors: for real, beside torchvision, in a Python of its own (st_vectors.py).

`make env` puts torchvision into a folder of its own, .venv/torchvision: beside a torch that it was not built for, importing transformers fails.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moca.model.families import FAMILIES

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 1e-5 # fp32
SERVED = [name for name, family in FAMILIES.items() if family.joint]
OTHERS = ["causal", "multi-vector", "multi-vector, projected", "no end token", "moca-tiny", "sentence-transformers' trainer"]

@pytest.fixture(scope="module")
def found(tmp_path_factory):
    "What st_vectors.py has measured."
    out = tmp_path_factory.mktemp("st")/"out.json"
    apart = Path(sys.prefix)/"torchvision"
    path = [str(ROOT), *([str(apart)] if apart.exists() else [])]
    env = os.environ | dict(PYTHONPATH=os.pathsep.join(path), HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    run = subprocess.run([sys.executable, ROOT/"tests"/"st_vectors.py", out], env=env, capture_output=True, text=True, timeout=600)
    hint = "torchvision and num2words are missing: call `make env`, or install moca's extra st\n" if "No module named" in run.stderr else ""
    assert run.returncode == 0, hint + run.stderr[-3000:]
    return json.loads(out.read_text())

@pytest.mark.parametrize("name", [*SERVED, *OTHERS])
def test_vectors_are_equal(found, name):
    "The same vector for each kind of input, here and there."
    differences = found["differences"][name]
    assert len(differences) >= 9
    assert {k: v for k, v in differences.items() if not v <= TOLERANCE} == {}

def test_every_model_is_measured(found):
    "Nothing that was measured is left unjudged."
    assert sorted(found["differences"]) == sorted([*SERVED, *OTHERS])

def test_what_cannot_be_served_says_so(found):
    "One sentence that names the way."
    assert "OpenWithMocaEmbedder" in found["refusals"]["paligemma"]
    assert "embed such a document with moca.Embedder" in found["refusals"]["several images"]
