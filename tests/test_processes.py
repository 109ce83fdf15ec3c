"Two processes give the step that one process gives: run under torchrun with gloo, compared in the parent."
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

import moca.contrastive as contrastive
from moca.contrastive import Contrastive, FinetuneConfig, PairBatch
from moca.training import accumulate


class Rows:
    "Stands in for a Pack: the `Backbone` of this test is a linear layer over given rows."
    def __init__(self, x): self.x = x
    def __len__(self): return len(self.x)
    def to(self, device): return self

def batch_of(share):
    "A batch with the queries of `share` out of seven; two positives are the same Document, hard negatives are uneven."
    g = torch.Generator().manual_seed(0)
    q, p, n = (torch.randn(k, 6, generator=g) for k in (7, 7, 6))
    p[5], keys = p[2], torch.tensor([10, 11, 12, 13, 14, 12, 16])
    owners = torch.tensor([0, 0, 1, 3, 6, 6])
    mine = [j for j, o in enumerate(owners.tolist()) if o in share]
    k = len(share)
    rows = torch.cat([q[share], p[share], n[mine]])
    return PairBatch([Rows(rows)], torch.arange(k), torch.arange(k, 2 * k), torch.arange(2 * k, 2 * k + len(mine)),
                     torch.tensor([share.index(o) for o in owners[mine].tolist()], dtype=torch.long), torch.cat([torch.arange(100, 100 + k), keys[share], 200 + torch.tensor(mine, dtype=torch.long)]))

def one_step(which):
    "Loss and weights after one step on this process's share."
    contrastive.embed = lambda backbone, rows, how: F.normalize(backbone(rows.x), dim=-1)
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    linear = nn.Linear(6, 4)
    model = Contrastive(linear, FinetuneConfig(candidates=which, temperature=.2))
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=.5))
    share = list(range(7))[accelerator.process_index::accelerator.num_processes]
    found = accumulate(model, [batch_of(share)], {"nce": 1.0, "right": 0.0}, accelerator)
    optimizer.step()
    return dict(processes=accelerator.num_processes, loss=float(found["nce"]), weight=linear.weight.flatten().tolist())

@pytest.mark.parametrize("which", ["all", "own"])
def test_two_processes_take_the_step_of_one(which, tmp_path):
    "InfoNCE over gathered candidates: same loss and same weights, with uneven shares, copies and uneven hard negatives."
    out = tmp_path/"two.json"
    env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(Path(__file__).parent.parent))
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__, which, str(out)]
    done = subprocess.run(call, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]
    two = json.loads(out.read_text())
    embed = contrastive.embed
    try: one = one_step(which)
    finally: contrastive.embed = embed
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert two["weight"] == pytest.approx(one["weight"], abs=1e-6)

if __name__ == "__main__":
    result = one_step(sys.argv[1])
    if int(os.environ["RANK"]) == 0: Path(sys.argv[2]).write_text(json.dumps(result))
    accelerator = Accelerator()
    accelerator.wait_for_everyone() # the first to leave would cut the other's connection
    accelerator.end_training()
