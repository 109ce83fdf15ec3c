"Stage 1 on two processes is stage 1 on one: a text on the one, pictures on the other, as copies (DDP) and in shards (FSDP2), under torchrun with gloo."
import copy
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

os.environ["ACCELERATE_USE_CPU"] = "true"

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file, save_file

from moca.backbone import tiny_backbone
from moca.training.checkpoints import full_tensor
from moca.data.documents import document
from moca.model.encoding import encode
from moca.reconstruction import PretrainConfig, Reconstruction, corrupt, load_stage, save_stage
from moca.training.run import release_lock
from moca.training.accumulation import accumulate
from moca.training.loop import TrainState, fit
from moca.training.start import end_run, start_run

WEIGHTS = {"mlm": 1.0, "mae": .5}
TEXTS = ["the quick brown fox jumps over the lazy dog " * 2, "a text without any picture at all", "and a third one, a little longer than the one before it"]

def config(out, **options): return PretrainConfig(out=str(out), steps=3, lr=1e-3, pack_tokens=512, max_length=256, checkpointing="none", tracker=None, save_every=1, ema=.9, **options)

def parts(encoder, cfg, step):
    "A step's four Packs: two of texts for the first process, two with pictures for the second."
    noise = lambda seed, size: Image.frombytes("RGB", size, bytes(torch.randint(0, 256, (size[0] * size[1] * 3,), generator=torch.Generator().manual_seed(seed + step), dtype=torch.uint8).tolist()))
    docs = [[document(TEXTS[0]), document(TEXTS[1])], [document(TEXTS[2])],
            [document([noise(1, (84, 56)), "a picture", noise(2, (56, 56)), "and another"])], [document([noise(3, (112, 56)), "one more"]), document(TEXTS[0])]]
    return [corrupt(encoder, [replace(encode(encoder, d), id=f"{k}.{i}") for i, d in enumerate(some)], cfg, step) for k, some in enumerate(docs)]

def share(all_, rank, processes): return all_ if processes == 1 else all_[2 * rank:2 * rank + 2]

def poison(batch): return replace(batch, pixel_values=batch.pixel_values * torch.nan)

def model(): return Reconstruction(tiny_backbone("qwen2_5_vl", num_hidden_layers=2))

def fresh(): torch.manual_seed(0); return model()

def take(out, resume=None):
    "Gradients, a poisoned step, a run of three steps, or of one after the two in directory `resume`; what is found goes to `out`."
    accelerator, cfg = Accelerator(cpu=True), config(out/"run" if resume is None else resume)
    rank, n, found = accelerator.process_index, accelerator.num_processes, {}
    if resume is None:
        run = TrainState(fresh(), cfg, accelerator)
        micro = share(parts(run.model.backbone.encoder, cfg, 0), rank, n)
        before = [b.input_ids.clone() for b in micro]
        means = accumulate(run.wrapped, micro, WEIGHTS, accelerator)
        assert all(torch.equal(a, b.input_ids) for a, b in zip(before, micro)) # no token is overwritten to make room for a picture
        gradients = {k: full_tensor(g) for k, g in zip(run.optimizer.named, run.optimizer.take_gradients())}
        for p in run.model.parameters(): p.grad = None
        state = {k: full_tensor(v).clone() for k, v in run.tensors().items()}
        row = run.step(accumulate(run.wrapped, micro[:-1] + [poison(micro[-1])], WEIGHTS, accelerator), WEIGHTS, 1e-3)
        found |= dict(processes=n, means={k: float(v) for k, v in means.items()}, skipped=row["skipped"], unchanged=all(torch.equal(full_tensor(v), state[k]) for k, v in run.tensors().items()))
        run.optimizer.zero_grad()
        texts = accumulate(run.wrapped, share(parts(run.model.backbone.encoder, cfg, 0)[:2] * 2, rank, n), WEIGHTS, accelerator)
        mae = [g for k, g in zip(run.optimizer.named, run.optimizer.take_gradients()) if k.startswith(("decoder", "to_pixels")) or "visual" in k]
        found |= dict(text_mae=float(texts["mae"]), text_gradient=max(float(full_tensor(g).abs().max()) for g in mae))
        frozen = fresh()
        frozen.backbone.vision.requires_grad_(False) # nothing to learn there, but shards to be gathered
        run = TrainState(frozen, cfg, accelerator)
        found |= dict(frozen=[run.step(accumulate(run.wrapped, micro, WEIGHTS, accelerator), WEIGHTS, 1e-3)[k] for k in ("loss", "norm")])
        if accelerator.is_main_process: out.mkdir(parents=True, exist_ok=True); save_file({k: v.contiguous() for k, v in gradients.items()}, out/"gradients.safetensors")
    accelerator, recon = start_run(cfg, resume=resume is not None), fresh()
    encoder = recon.backbone.encoder
    log = fit(recon, lambda step, rank, n: share(parts(encoder, cfg, step), rank, n), cfg, 3 if resume else 2, WEIGHTS, accelerator, resume=resume is not None)
    if accelerator.is_main_process:
        again = copy.deepcopy(recon).eval() # a plain model, after all
        with torch.no_grad(): found |= {f"after {k}": float(v) for k, v in again(parts(encoder, cfg, 9)[2]).items()}
        save_stage(recon, cfg, len(log), sum(r["tokens"] for r in log))
        (out/f"found{'-again' if resume else ''}.json").write_text(json.dumps(found | dict(log=log)))
    end_run(cfg, accelerator)

def two(out, how, resume=None):
    "The same on two processes."
    flags = dict(ACCELERATE_USE_FSDP="true", FSDP_VERSION="2") if how == "fsdp" else {}
    env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(Path(__file__).parent.parent), **flags)
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__, str(out), *([str(resume)] if resume else [])]
    done = subprocess.run(call, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]

def read(out, again=False): return json.loads((out/f"found{'-again' if again else ''}.json").read_text())

@pytest.fixture(scope="module")
def one(tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    take(out)
    return out

@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_two_processes_are_one(how, one, tmp_path):
    "Gradient, losses, skipped step; saved model; a state of two is resumed by one, a state of one by two."
    two(tmp_path, how)
    a, b = read(one), read(tmp_path)
    assert (a["processes"], b["processes"]) == (1, 2)
    expected, found = (load_file(o/"gradients.safetensors") for o in (one, tmp_path))
    scale = max(float(g.abs().max()) for g in expected.values())
    assert expected.keys() == found.keys() and scale > 0
    for k, g in expected.items(): assert float((found[k] - g).abs().max()) <= 1e-6 * scale, k
    assert b["frozen"] == pytest.approx(a["frozen"], rel=1e-6)
    for k, v in a["means"].items(): assert b["means"][k] == pytest.approx(v, rel=1e-6)
    for x in (a, b): assert "nan" in x["skipped"] and x["unchanged"] and x["text_mae"] == 0 and x["text_gradient"] == 0
    close = lambda x, y: [r["loss"] for r in x["log"]] == pytest.approx([r["loss"] for r in y["log"]], rel=1e-5)
    assert close(a, b) and [r["tokens"] for r in a["log"]] == [r["tokens"] for r in b["log"]]

    state, saved = load_file(tmp_path/"run"/"state"/"tensors.safetensors"), dict(load_stage(tmp_path/"run").named_parameters())
    averaged = {k[8:]: v for k, v in state.items() if k.startswith("average.")}
    assert averaged.keys() == saved.keys() and all(torch.equal(v, saved[k]) for k, v in averaged.items()) # the average is exported, whole
    with torch.no_grad(): after = load_stage(tmp_path/"run")(parts(load_stage(tmp_path/"run").backbone.encoder, config(tmp_path), 9)[2])
    for k, v in after.items(): assert float(v) == pytest.approx(b[f"after {k}"], rel=1e-6)

    take(tmp_path, resume=tmp_path/"run")
    if how == "fsdp":
        shutil.copytree(one/"run", tmp_path/"copy")
        (tmp_path/"other").mkdir()
        two(tmp_path/"other", how, resume=tmp_path/"copy")
        assert close(read(tmp_path, True), read(tmp_path/"other", True)) and len(read(tmp_path, True)["log"]) == 3
    release_lock(tmp_path/"run")

if __name__ == "__main__":
    take(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
