"""Compare what sentence-transformers makes of saved models with moca's vectors: `python st_vectors.py OUT.json`.

It runs in a Python of its own, beside torchvision, which sentence-transformers' processors ask for; test_sentence_transformers.py starts it.
A torchvision that was built for another torch lacks its operators. None is used here, so they are declared, and the rest of it works.
"""
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

def torchvision_here() -> None:
    "Import torchvision, with or without operators of its own."
    try: import torchvision # noqa: F401
    except RuntimeError:
        for name in [o for o in sys.modules if o.split(".")[0] == "torchvision"]: del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"): library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torchvision_here.library = library # lives as long as the process
        import torchvision # noqa: F401

torchvision_here()
torch.set_num_threads(1)
warnings.simplefilter("ignore")

from datasets import Dataset  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402
from sentence_transformers import (MultiVectorEncoder, SentenceTransformer, SentenceTransformerTrainer,  # noqa: E402
                                   SentenceTransformerTrainingArguments)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss  # noqa: E402
from transformers.utils import logging  # noqa: E402

from moca.backbone import add_projection, load_backbone, tiny_backbone  # noqa: E402
from moca.data.documents import document, prompt  # noqa: E402
from moca.embedder import Embedder  # noqa: E402
from moca.model.directories import embedder_path  # noqa: E402
from moca.model.families import FAMILIES  # noqa: E402
from moca.model.saving import SETTINGS, set_prompts  # noqa: E402

logging.set_verbosity_error()
logging.disable_progress_bar()

PROMPT = "Find a picture of:"
ball = Image.new("RGB", (112, 112), "white")
ImageDraw.Draw(ball).ellipse((20, 20, 90, 90), fill="crimson")
photo = Image.radial_gradient("L").resize((301, 203)).convert("RGB")
INPUTS = {
    "text": "a red ball", "image": ball, "wide image": photo, "dictionary": {"text": "a ball", "image": photo},
    "dictionary, image first": {"image": photo, "text": "a ball"}, "image, text": [photo, "a ball"], "text, image": ["a ball", ball],
    "long text": "and a longer sentence about something else entirely " * 40, "spaces": "  a ball  "}
SEVERAL = {"two images": {"text": "two", "image": [ball, photo]}}

def messages(x):
    "A list of parts as messages of one part each: sentence-transformers' way to have a text before an image."
    if not isinstance(x, list): return x
    kinds = ["text" if isinstance(o, str) else "image" for o in x]
    return [{"role": "user", "content": [{"type": kind, kind: o}]} for kind, o in zip(kinds, x)]

def there(st, x, **options) -> torch.Tensor: return torch.as_tensor(st.encode([messages(x)], **options)[0]).float()

def gap(a: torch.Tensor, b: torch.Tensor) -> float: return float((a - b).abs().max()) if a.shape == b.shape else float("inf")

def compare(model: Embedder, folder: Path, kind=SentenceTransformer) -> dict[str, float]:
    "The largest difference for each input; with a prompt; all in one batch; and of what sentence-transformers saves again."
    model.save_pretrained(folder)
    st = kind(str(folder), device="cpu")
    inputs = INPUTS | (SEVERAL if model.backbone.encoder.family.joint.several else {})
    want = {name: model.encode([x])[0] for name, x in inputs.items()}
    found = {name: gap(there(st, x), want[name]) for name, x in inputs.items()}
    prompted = {name: model.encode([prompt(PROMPT, document(x, id=""))])[0] for name, x in INPUTS.items()}
    found["with a prompt"] = max(gap(there(st, x, prompt_name="query"), prompted[name]) for name, x in INPUTS.items())
    alike = [name for name, x in inputs.items() if not isinstance(x, list)] # messages want a batch of their own
    rows = st.encode([inputs[name] for name in alike])
    found["in one batch"] = max(gap(torch.as_tensor(row).float(), want[name]) for name, row in zip(alike, rows))
    st.save_pretrained(f"{folder}-again")
    assert not Path(f"{folder}-again", SETTINGS).exists()
    again = Embedder.from_pretrained(f"{folder}-again")
    found["saved there, read here"] = max(gap(again.encode([x])[0], want[name]) for name, x in inputs.items())
    return found

def prompted(backbone) -> Embedder:
    "An Embedder with a prompt."
    set_prompts(backbone, {"query": PROMPT})
    return Embedder(backbone)

def each_family(place: Path) -> dict[str, dict[str, float]]:
    "All families with a processor that sentence-transformers can use."
    served = [name for name, family in FAMILIES.items() if family.joint]
    return {name: compare(prompted(tiny_backbone(name)), place/name) for name in served}

def base_and_late(place: Path) -> dict[str, dict[str, float]]:
    "The embedded model: causal with its last token, multi-vector with and without a projection, and without an end token."
    causal = Embedder(load_backbone(bidirectional=False))
    set_prompts(causal.backbone, {"query": PROMPT})
    found = {"causal": compare(causal, place/"causal")}
    for name, dim in (("multi-vector", None), ("multi-vector, projected", 16)):
        model = prompted(load_backbone(bidirectional=True))
        if dim: add_projection(model.backbone, dim)
        model.multi_vector = True
        found[name] = compare(model, place/f"late{dim}", MultiVectorEncoder)
    open_ended = prompted(load_backbone(bidirectional=True, end_token=False))
    return found | {"no end token": compare(open_ended, place/"open"), "moca-tiny": shipped()}

def shipped() -> dict[str, float]:
    "The embedding model that moca ships, from its own directory."
    st, model = SentenceTransformer(str(embedder_path()), device="cpu"), Embedder.from_pretrained()
    return {name: gap(there(st, x), model.encode([x])[0]) for name, x in INPUTS.items()}

def trained(place: Path) -> dict[str, dict[str, float]]:
    "sentence-transformers' trainer goes on with a model of moca; what it saves is read here, and gives its vectors."
    model = prompted(load_backbone(bidirectional=True))
    model.save_pretrained(place/"start")
    st = SentenceTransformer(str(place/"start"), device="cpu")
    before = there(st, INPUTS["text"])
    data = Dataset.from_dict(dict(anchor=["a red ball", "a blue box", "a cat", "a tree"], positive=["ball", "box", "cat", "tree"]))
    how = SentenceTransformerTrainingArguments(str(place/"run"), max_steps=2, per_device_train_batch_size=4, learning_rate=1e-3,
                                               report_to=[], disable_tqdm=True, save_strategy="no", use_cpu=True)
    SentenceTransformerTrainer(st, how, data, loss=MultipleNegativesRankingLoss(st)).train()
    st.save_pretrained(str(place/"trained"))
    again = Embedder.from_pretrained(place/"trained")
    found = {name: gap(there(st.eval(), x), again.encode([x])[0]) for name, x in INPUTS.items()}
    assert gap(before, there(st, INPUTS["text"])) > 1e-4, "the trainer changed nothing"
    assert again.backbone.bidirectional and again.pooling == "mean" and again.backbone.prompts == {"query": PROMPT}
    return {"sentence-transformers' trainer": found}

def refused(call: Callable) -> str:
    "The sentence that a call fails with."
    try: call()
    except Exception as e: return f"{type(e).__name__}: {e}"
    return ""

def refusals(place: Path) -> dict[str, str]:
    "What is said where sentence-transformers cannot give the vectors."
    Embedder(tiny_backbone("paligemma")).save_pretrained(place/"paligemma")
    Embedder(tiny_backbone("llava_onevision")).save_pretrained(place/"llava")
    llava = SentenceTransformer(str(place/"llava"), device="cpu")
    return {"paligemma": refused(lambda: SentenceTransformer(str(place/"paligemma"))),
            "several images": refused(lambda: llava.encode([SEVERAL["two images"]]))}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as d:
        place = Path(d)
        differences = each_family(place) | base_and_late(place) | trained(place)
        Path(sys.argv[1]).write_text(json.dumps(dict(differences=differences, refusals=refusals(place)), indent=1))
