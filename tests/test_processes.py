"""Several processes give the step that one process gives: the gradient of stage 2, under DDP and FSDP2, compared with one process over gloo.

One launch for each number of processes runs all cases; each case is a batch of nine pairs (some without negatives, two with one answer) of 0 to 3 pictures a Document."""
import dataclasses
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import moca.finetuning.gradcache as gradcache
from moca.backbone import tiny_backbone
from moca.model.cost import checkpoint_activations
from moca.model.loading import add_lora
from moca.contrastive import Contrastive, FinetuneConfig
from moca.finetuning.pair_batch import WEIGHTS, make_batch
from moca.data.documents import Pair, document

CASES = {
    "all": dict(),
    "own": dict(candidates="own", dims="16:0.5"),
    "everything": dict(symmetric=True, same_side="both", filter_ratio=.99, hardness=1.0, learn_temperature=True),
    "late": dict(multi_vector=True, token_pooling=2, symmetric=True),
    "one pair": dict(multi_vector=True, filter_above=2.0), # all processes but one have nothing to do
    "text": dict(), # the vision tower is in no process's graph but one's
    "lora": dict(learn_temperature=True),
    "one chunk": dict(pack_tokens=4096)}
MUTANTS = {"no gradient of the gather": "own", "no scale by processes": "all", "a pass less": "late"}

def pairs():
    "Nine pairs; pairs 2 and 5 share their answer."
    square = lambda k: Image.new("RGB", (64, 64), (40 * k % 255, 90 * k % 255, 20 * k))
    side = lambda name, k, pictures: document({"text": f"{name} number {k}", "images": [square(k + i) for i in range(pictures)]} if pictures else f"{name} of {k * 7}", id=f"{name}{k}")
    negatives = [2, 0, 1, 3, 0, 1, 0, 2, 1]
    out = [Pair(str(k), side("query", k, k % 3 == 0), side("answer", 2 if k == 5 else k, k % 4), tuple(side("wrong", 10 * k + j, j) for j in range(negatives[k])), "task") for k in range(9)]
    return out

def chosen(name):
    "The pairs of a case."
    if name == "one pair": return pairs()[:1]
    if name == "text": return [dataclasses.replace(p, query=document("a picture", id="q") if k else p.query, positive=document(f"text {k}", id=f"t{k}"), negatives=()) for k, p in enumerate(pairs())]
    return pairs()

def wrapped(model, how):
    "The model under DDP, FSDP2 or alone."
    if how == "ddp": return DistributedDataParallel(model, find_unused_parameters=True)
    if how == "fsdp":
        for part in (*model.backbone.text.layers, *model.backbone.vision.blocks, model): fully_shard(part)
    return model

def gradient(name, how, mutant=None):
    "Loss and gradient of a case, whole on every process."
    torch.manual_seed(0)
    cfg = FinetuneConfig(**{"temperature": .2, "pack_tokens": 48, "max_length": 48, **CASES[name]})
    backbone = tiny_backbone("qwen2_5_vl").train()
    if name == "lora": add_lora(backbone, r=2, init_lora_weights=False)
    if name == "everything": checkpoint_activations(backbone.model)
    inner = Contrastive(backbone, cfg)
    model, accelerator = wrapped(inner, how), Accelerator(cpu=True)
    mine = chosen(name)[accelerator.process_index::accelerator.num_processes]
    batch = make_batch(backbone.encoder, mine, 2, cfg.pack_tokens, keep=0)
    means = broken(mutant, gradcache.accumulate_gradcache, model, [batch], WEIGHTS, accelerator)
    full = lambda p: torch.zeros_like(p) if p.grad is None else p.grad
    whole = lambda g: g.full_tensor() if isinstance(g, DTensor) else g
    grads = torch.cat([whole(full(p)).detach().flatten() for p in inner.parameters() if p.requires_grad])
    return {"loss": float(means["nce"]), "right": float(means["right"]), "norm": float(grads.norm())}, grads

def broken(mutant, run, model, micro, weights, accelerator):
    "A step with a mistake that somebody made."
    if mutant is None: return run(model, micro, weights, accelerator)
    kept = gradcache.Gather.backward, accelerator.backward, gradcache.CachedEmbeddings.backward
    if mutant == "no gradient of the gather": gradcache.Gather.backward = staticmethod(lambda ctx, g: (g[ctx.mine], None))
    if mutant == "no scale by processes": accelerator.backward = lambda loss: kept[1](loss / accelerator.num_processes)
    if mutant == "a pass less": gradcache.CachedEmbeddings.backward = lambda self, i, v, s, g: kept[2](self, i, v * 0 if i == 0 and accelerator.process_index else v, s, g)
    try: return run(model, micro, weights, accelerator)
    finally: gradcache.Gather.backward, accelerator.backward, gradcache.CachedEmbeddings.backward = kept

def plans(processes):
    "What is run: case, how, mutant. Four processes take the cases that are hardest for them."
    hard = CASES if processes == 2 else ("everything", "one pair")
    return [(name, how, None) for how in ("ddp", "fsdp") for name in hard] + [(case, "ddp", m) for m, case in MUTANTS.items() if processes == 2]

def work(folder):
    "What a launched process does: all cases, each compared with the gradient that one process found."
    dist.init_process_group("gloo")
    found = {}
    for name, how, mutant in plans(dist.get_world_size()):
        means, grads = gradient(name, how, mutant)
        want = load_file(folder/f"{name}.safetensors")["gradient"]
        found[f"{how} {mutant or name}"] = dict(means, difference=float((grads - want).norm() / want.norm()))
    if dist.get_rank() == 0: (folder/"found.json").write_text(json.dumps(found))
    dist.barrier() # the first to leave would cut the others' connection
    dist.destroy_process_group()

@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    "What one process finds, as files for the others."
    folder, means = tmp_path_factory.mktemp("alone"), {}
    for name in CASES:
        means[name], grads = gradient(name, "alone")
        assert means[name]["norm"] > 1e-3
        save_file({"gradient": grads}, folder/f"{name}.safetensors")
    return folder, means

@pytest.mark.parametrize("processes", [2, 4])
def test_processes_take_the_step_of_one(processes, alone):
    "DDP and FSDP2: the loss and the gradient of one process, with every option, uneven shares, idle processes and uneven numbers of Packs; and mutants that differ."
    folder, one = alone
    env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(Path(__file__).parent.parent))
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), __file__, str(folder)]
    done = subprocess.run(call, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((folder/"found.json").read_text())
    for name, how, mutant in plans(processes):
        case = found[f"{how} {mutant or name}"]
        if mutant:
            assert case["difference"] > 1e-3, (mutant, case)
            continue
        assert case["difference"] <= 1e-6, (how, name, case)
        assert case["loss"] == pytest.approx(one[name]["loss"], rel=1e-5) and case["right"] == pytest.approx(one[name]["right"]), (how, name)

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    work(Path(sys.argv[1]))
