#!/usr/bin/env python3
"""Make moca-tiny, the small embedding model that moca ships, of a finished quickstart.

    moca quickstart --out runs/quickstart
    python tools/build_embedder.py runs/quickstart [--out moca/assets/embedder]

Writes the final model of the run with its weights in fp16 and the ranges of its vectors for int8, checks that no number of
a vector changes by more than 1e-3, and writes a card with the run's own scores.
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path

from moca.data.corpus import load_corpus
from moca.data.corpus_documents import image_documents
from moca.data.errors import BadInput
from moca.data.files import atomic
from moca.embedder import Embedder

TOLERANCE = 1e-3 # of a number of a vector
CALIBRATION = 1000 # Documents whose vectors give the ranges for int8
HEAD = """---
license: apache-2.0
library_name: sentence-transformers
pipeline_tag: feature-extraction
base_model: moca-tiny-base
tags:
- moca
- multimodal
- sentence-transformers
- feature-extraction
- sentence-similarity
---

# moca-tiny

A multimodal embedding model of 8.7 million parameters: what `moca quickstart` makes of *moca-tiny-base* in minutes on a laptop. It
exists so that `Embedder.from_pretrained()` embeds something without a download; it is no general-purpose model.
"""
USE = """
## Use

```python
from moca.embedder import Embedder
model = Embedder.from_pretrained() # or "moca", or this directory
vectors = model.encode(["a red apple", image])
queries = model.encode(["apple"], prompt_name="caption_to_picture")
```

```python
from sentence_transformers import SentenceTransformer
model = SentenceTransformer("PATH")
```
"""
LIMITS = """
* **Data**: the training split of moca's embedded corpus alone: openclipart (public domain), Noto Color Emoji (OFL-1.1), Fluent emoji
  (MIT), emojibase (MIT), WordNet 3.0 (WordNet licence), scikit-learn documentation (BSD-3-Clause).
* **Limits**: it has seen clip art, emoji, documentation pages and glosses, and nothing else: no photographs, no small print. Texts are
  English, with emoji names in German, French, Spanish and Italian. On several of the tasks below a count of shared words is better.
* **Stored in** fp16; no number of a vector differs by more than {worst:.0e} from that of the fp32 weights. The ranges for int8 are those
  of {calibration} Documents of the training split.
"""

def largest_difference(a: Embedder, b: Embedder) -> float:
    "Between the vectors of two models, over validation images and their captions."
    docs = list(image_documents(load_corpus(), "validation"))[:200]
    inputs = [*docs, *(doc.text for doc in docs if doc.text)]
    return float((a.encode(inputs) - b.encode(inputs)).abs().max())

def scores_table(results: dict) -> str:
    "The run's scores, a line a task: words and pixels in common, before, after."
    columns = results["scores"]
    by_task = {name: {row["task"]: row["value"] for row in rows} for name, rows in columns.items()}
    lines = ["| task | metric | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for row in columns["after stage 2"]:
        cells = [by_task[name].get(row["task"]) for name in columns]
        shown = ["" if value is None else f"{value:.1%}" for value in cells]
        lines.append(f"| {row['task']} | {row['metric']} | " + " | ".join(shown) + " |")
    return "\n".join(lines)

def card(run: Path, model: Embedder, worst: float) -> str:
    "The README of the model."
    results = json.loads((run/"results.json").read_text("utf-8"))
    made = "\n".join(f"* **Made by** {line}." for line in model.backbone.history)
    prompts = "\n".join(f"* `{name}`: {text}" for name, text in model.prompts.items())
    scores = f"## Scores\n\nThe test split of moca-bench, asked once; seed {results['seed']}.\n\n{scores_table(results)}\n"
    return "\n".join([HEAD, made + LIMITS.format(worst=worst, calibration=f"{CALIBRATION:,}"), f"## Prompts\n\n{prompts}", USE, scores])

def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished `moca quickstart`")
    parser.add_argument("--out", type=Path, default=Path("moca/assets/embedder"))
    args = parser.parse_args(argv)
    full, half = (Embedder.from_pretrained(args.run/"model") for _ in range(2))
    half.backbone.half()
    train = load_corpus().documents("train")
    full.calibrate([train[i] for i in range(0, len(train), len(train) // CALIBRATION)][:CALIBRATION])
    half.backbone.ranges = full.backbone.ranges
    with atomic(args.out) as part:
        half.save_pretrained(part)
        config = json.loads((part/"config.json").read_text("utf-8"))
        set_dtype(config, "float32") # what others compute in, whatever is stored
        (part/"config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        worst = largest_difference(full, Embedder.from_pretrained(part))
        if worst > TOLERANCE: raise BadInput(f"vectors differ by {worst:.1e}, more than {TOLERANCE}: nothing is written")
        (part/"README.md").write_text(card(args.run, full, worst), "utf-8")
    print(f"{args.out}: largest difference of a number of a vector {worst:.1e}")

def set_dtype(config: dict, name: str) -> None:
    "Name the type in a config and in those within it."
    for key, value in config.items():
        if isinstance(value, dict): set_dtype(value, name)
        elif key in ("dtype", "torch_dtype"): config[key] = name

if __name__ == "__main__": main()
