"""Turn a causal vision-language model into a bidirectional multimodal embedding model.

    from moca import Embedder
    vectors = Embedder.from_pretrained("runs/quickstart/model").encode(["a red apple", "ein roter Apfel"])

The names below are the front door; each is loaded when it is first asked for, so that `import moca` costs
nothing. What they are made of lies in the modules of the book (`moca.masking`, `.backbone`, `.reconstruction`,
`.contrastive`, `.evaluation`) and in the wings (`moca.data`, `.model`, `.training`, ...).
"""
__version__ = "0.1.0"

from typing import TYPE_CHECKING

if TYPE_CHECKING: # what type checkers and IDEs read; `_HOMES` says the same at run time
    from moca.backbone import load_backbone
    from moca.contrastive import FinetuneConfig, finetune
    from moca.data.documents import Document, Pair
    from moca.embedder import Embedder
    from moca.evaluation import evaluate
    from moca.model.probe import probe
    from moca.reconstruction import PretrainConfig, pretrain

_HOMES = {
    "Document": "moca.data.documents",
    "Embedder": "moca.embedder",
    "FinetuneConfig": "moca.contrastive",
    "Pair": "moca.data.documents",
    "PretrainConfig": "moca.reconstruction",
    "evaluate": "moca.evaluation",
    "finetune": "moca.contrastive",
    "load_backbone": "moca.backbone",
    "pretrain": "moca.reconstruction",
    "probe": "moca.model.probe",
}

__all__ = [
    "Document",
    "Embedder",
    "FinetuneConfig",
    "Pair",
    "PretrainConfig",
    "evaluate",
    "finetune",
    "load_backbone",
    "pretrain",
    "probe",
]

if not TYPE_CHECKING: # a type checker that saw this would believe in every name
    def __getattr__(name):
        "Load a name of the front door from the module where it is defined, and keep it here."
        if name not in _HOMES: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module
        value = getattr(import_module(_HOMES[name]), name)
        _tell_parameters(value)
        globals()[name] = value
        return value

def _tell_parameters(value):
    "Put the comments beside the parameters of a function, or of a class's methods, into the docstring: for `help()`."
    from inspect import getdoc, isfunction, unwrap
    from fastcore.docments import docments
    functions = [value] if isfunction(value) else [getattr(o, "__func__", o) for n, o in vars(value).items() if n[0] != "_"]
    for f in filter(isfunction, functions):
        told = {k: " ".join(v.split()) for k, v in docments(unwrap(f)).items() if v}
        if not told or "\nParameters:" in (f.__doc__ or ""): continue
        lines = [f"    {k}: {v}" for k, v in told.items() if k != "return"]
        if "return" in told: lines.append(f"Returns: {told['return']}")
        f.__doc__ = "\n".join([getdoc(f) or "", "", "Parameters:", *lines])

def __dir__():
    "What is loaded, and what can be."
    return sorted({*globals(), *__all__})
