"Data on its way into both stages: mixtures, caps and weights, pictures that break late, and a run that stops when too much is bad."
import io
import json

import pytest
from PIL import Image

from moca.contrastive import SMALL as PAIRS
from moca.contrastive import FinetuneConfig, finetune
from moca.data.errors import BadInput
from moca.reconstruction import SMALL, PretrainConfig, pretrain
from moca.training.config import make_config
from moca.training.log import read_log

def jpeg(seed):
    "A picture of some noise, as a file."
    buffer = io.BytesIO()
    Image.effect_noise((84, 56), 40 + seed).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()

@pytest.fixture
def data(tmp_path):
    "A folder with pictures, one of which has a sound header and half its data, and a mixture of it with texts."
    for k in range(40): (tmp_path/f"{k}.jpg").write_bytes(jpeg(k) if k != 7 else jpeg(k)[:900])
    rows = [{"id": str(k), "image": f"{k}.jpg", "text": f"picture number {k}, grey and full of noise"} for k in range(40)] + [{"text": ""}]
    (tmp_path/"pictures.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path/"texts.jsonl").write_text("\n".join(json.dumps({"text": f"text number {k} " + "and some words more " * 8})
                                                  for k in range(100)))
    (tmp_path/"mix.yaml").write_text("sources:\n  pictures: {data: pictures.jsonl}\n  texts: {data: texts.jsonl, cap: 80, weight: 0.5}\n")
    return tmp_path

def small(kind, preset, data, **options): return make_config(kind, preset, dict(data=str(data), log_every=1, **options))

def rejected(run):
    "The rejected rows in a run's file of bad samples, which holds ignored files and notes, too."
    lines = [json.loads(line) for line in (run/"bad_samples.jsonl").read_text().splitlines()]
    return [line for line in lines if "id" in line]

def test_a_picture_that_breaks_late_is_left_out_and_named(data):
    "The step goes on without it, the report has it once, and a second run does the same."
    runs = []
    for name in "ab":
        cfg = small(PretrainConfig, SMALL, data/"mix.yaml", out=str(data/name), steps=8, max_bad=.05, watch=0)
        summary = pretrain(cfg)
        bad = rejected(data/name)
        log = [{k: v for k, v in r.items() if k in ("step", "mlm", "mae", "tokens", "norm")} for r in read_log(data/name/"log.jsonl", 8)]
        runs.append((summary["loss"], bad, log))
    assert runs[0] == runs[1]
    bad = runs[0][1]
    assert [b["id"] for b in bad] == ["pictures/pictures.jsonl:41", "pictures/7"] and "7.jpg" in bad[1]["reason"] and len(runs[0][2]) == 8
    assert summary["documents"] == 120 and summary["rejected"] == 2

def test_a_run_goes_on_with_its_own_data_only(data):
    "Resumed without change it is done already; with other data, or another limit, it is refused."
    cfg = small(PretrainConfig, SMALL, data/"texts.jsonl", out=str(data/"run"), steps=2, watch=0)
    first = pretrain(cfg)
    assert pretrain(cfg, resume=True)["documents"] == first["documents"] == 100
    with open(data/"texts.jsonl", "a") as f: f.write('\n{"text": "one more"}')
    with pytest.raises(BadInput, match="the data is not what .* began with"): pretrain(cfg, resume=True)

def test_too_many_bad_rows_stop_the_run(data):
    "One sentence, the file of bad samples, and no step."
    with open(data/"pictures.jsonl", "a") as f: f.write("\n{oops" * 5)
    with pytest.raises(BadInput, match=r"6 of 126 rows cannot be used \(4.76%\), more than max_bad allows \(1.00%\)"):
        pretrain(small(PretrainConfig, SMALL, data/"mix.yaml", out=str(data/"run"), steps=2))
    assert len(rejected(data/"run")) == 6 and not (data/"run"/"state").exists()

def test_nothing_but_bad_rows(data):
    "The one row is named, and kept in the file of bad samples."
    (data/"only").mkdir(); (data/"only"/"a.jpg").write_bytes(b"not a picture")
    with pytest.raises(BadInput, match=r"none of 1 rows can be used; .*a\.jpg"):
        pretrain(small(PretrainConfig, SMALL, data/"only", out=str(data/"run"), steps=2))
    assert "a.jpg" in (data/"run"/"bad_samples.jsonl").read_text()

def test_pairs_of_a_mixture(data):
    "Stage 2 reads foreign layouts, one task a source, and finds broken pictures before it starts."
    (data/"mmeb.jsonl").write_text("\n".join(json.dumps(dict(qry="<|image_1|> Which number?", qry_image_path=f"{k}.jpg",
                                                             pos_text=f"number {k}", neg_text=str([f"number {k + 1}"])))
                                             for k in range(20)))
    (data/"st.jsonl").write_text("\n".join(json.dumps(dict(anchor=f"number {k}", positive=f"the number {k}")) for k in range(20)))
    (data/"pairs.yaml").write_text("kind: pairs\nsources:\n  which: {data: mmeb.jsonl}\n  same: {data: st.jsonl}\n")
    summary = finetune(small(FinetuneConfig, PAIRS, data/"pairs.yaml", out=str(data/"cl"), steps=2, batch_size=8, max_bad=.05))
    assert summary["pairs"] == 39 and summary["tasks"] == 2 and "7.jpg" in (data/"cl"/"bad_samples.jsonl").read_text()
