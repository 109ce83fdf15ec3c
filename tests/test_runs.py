"""Runs that are stopped, killed, blocked or starved, as real processes: what ends a run leaves a state, says so, and the run goes on.

Called as a program, this file is such a run: `test_runs.py MODE OUT`, with options in the environment."""
import dataclasses
import importlib
import inspect
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moca.training.run import STAGES

SLOW = os.environ.get("MOCA_SLOW") == "1"
KILLS = int(os.environ.get("MOCA_KILLS", "40")) # of the slow test, over both stages
STEPS = 30
STAGE_STEPS = 30 if SLOW else 10

# --- the runs ---------------------------------------------------------------------------------------------------------------

def toy(out, mode):
    "A run of a model that fits a line; on several processes each has its own rows."
    import torch
    from torch import nn

    from moca.data.errors import BadInput
    from moca.training.config import TrainConfig
    from moca.training.loop import fit
    from moca.training.start import end_run, start_run

    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Linear(3, 1)
        def forward(self, b):
            if len(b.x) > room: raise torch.OutOfMemoryError("CUDA out of memory")
            return {"square": (self.net(b.x) - b.x.sum(1, keepdim=True)).pow(2).sum()}

    class Rows:
        def __init__(self, x): self.x, self.counts, self.tokens = x, {"square": len(x)}, len(x)
        def to(self, device): return self
        def halves(self): return [Rows(h) for h in self.x.tensor_split(2)] if len(self.x) > 1 else []

    rank = int(os.environ.get("RANK", "0"))
    mine = mode if rank == int(os.environ.get("WHO", "0")) else "go"
    room = 1 if mine == "starved" else 10**9

    def batches(step, rank, processes):
        print(f"step {step}", flush=True)
        if mine == "blocked" and step == 4: time.sleep(1000)
        if mine == "spoiled" and step == 4: raise BadInput("2 of 10 rows cannot be used: mend them, or raise max_bad")
        if mine == "dies" and step == 4: os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(.05) # time for a signal to come
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        return [Rows(part) for part in x.tensor_split(2 * processes)[2 * rank:2 * rank + 2]]

    cfg = TrainConfig(out=out, steps=STEPS, lr=.05, tracker=None, save_every=0, max_bad=.1 if mode == "spoiled" else .5)
    accelerator = start_run(cfg, resume=Path(out, "state").exists() or mode == "resume")
    print(f"process {accelerator.process_index} of {accelerator.num_processes}", flush=True)
    fit(Line(), batches, cfg, STEPS, {}, accelerator, resume=mode == "resume")
    end_run(cfg, accelerator)

def stage(out, mode):
    "A stage on a small random model, or its going on, by nothing but its directory."
    from moca.backbone import save, tiny_backbone
    from moca.contrastive import FinetuneConfig, finetune
    from moca.reconstruction import PretrainConfig, pretrain
    from moca.training.run import begun, resume_run
    if begun(out): return resume_run(out)
    base = Path(out).parent/"base"
    if not base.exists(): save(tiny_backbone("qwen2_5_vl"), base)
    options = dict(out=out, base=str(base), steps=STAGE_STEPS, lr=1e-3, save_every=1, log_every=1, max_length=64, checkpointing="none", tracker=None)
    if mode == "pretrain": return pretrain(PretrainConfig(**options, pack_tokens=128, packs_per_step=2, watch=2, ema=.9))
    return finetune(FinetuneConfig(**options, pack_tokens=128, batch_size=6, tasks="caption_to_picture", learn_temperature=True))

def main(mode, out):
    "Exit codes: 0 finished, 2 an error in one sentence, 3 stopped."
    from moca.data.errors import MocaError
    from moca.training.loop import Stopped
    try: (stage if mode in ("pretrain", "finetune") else toy)(out, mode)
    except Stopped as e: print(e, file=sys.stderr, flush=True); sys.exit(3)
    except MocaError as e: print(e, file=sys.stderr, flush=True); sys.exit(2)

# --- helpers ----------------------------------------------------------------------------------------------------------------

# A server imports once and forks for each run: a run of its own, without the seconds of importing.
server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(["moca.backbone", "moca.contrastive", "moca.reconstruction", "moca.training.run", "moca.training.start", "moca.training.loop"])

def child(mode, out, env, files):
    "What a forked process does: its output goes to files."
    for fd, file in zip((1, 2), files): os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND), fd)
    os.environ.update(env)
    main(mode, out)

class Started:
    "A run in a process of its own."
    def __init__(self, mode, out, **env):
        out.parent.mkdir(parents=True, exist_ok=True)
        self.files = [str(out.parent/f"{time.monotonic_ns()}.{name}") for name in ("out", "err")]
        self.process = server.Process(target=child, args=(mode, str(out), dict(TQDM_DISABLE="1") | env, self.files))
        self.process.start()

    def said(self): return [Path(f).read_text() if Path(f).exists() else "" for f in self.files]
    def alive(self): return self.process.is_alive()
    def send(self, name): os.kill(self.process.pid, name)

    def wait_for(self, line):
        "Wait for a line of its output."
        while line not in self.said()[0].splitlines():
            assert self.alive(), self.said()
            time.sleep(.005)

    def end(self, timeout=300):
        "Wait for its end: its exit code and what it said."
        self.process.join(timeout)
        assert not self.alive(), (self.process.kill(), self.said())
        return self.process.exitcode, *self.said()

def begin(mode, out, **env): return Started(mode, Path(out), **env)
def end(process, timeout=300): return process.end(timeout)
def wait_for(process, line): process.wait_for(line)

def torchrun(mode, out, **env):
    "The same on two processes, under torch's launcher."
    env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(Path(__file__).parent.parent), TQDM_DISABLE="1") | env
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__, mode, str(out)]
    done = subprocess.run(call, env=env, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr

def group(mode, out, **env):
    "The same on two forked processes, which no launcher looks after."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    env |= dict(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    return [begin(mode, out, RANK=str(r), LOCAL_RANK=str(r), **env) for r in (0, 1)]

def tensors(out): return (Path(out)/"state"/"tensors.safetensors").read_bytes()
def step_of(out): return json.loads((Path(out)/"state"/"state.json").read_text())["step"]
def steps_logged(out): return [json.loads(line)["step"] for line in (Path(out)/"log.jsonl").read_text().splitlines()]

@pytest.fixture(scope="module")
def through(tmp_path_factory):
    "A toy run that nobody disturbs."
    out = tmp_path_factory.mktemp("through")/"run"
    assert end(begin("go", out))[0] == 0
    return out

# --- what ends a run --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_signals_save(name, through, tmp_path):
    "Each signal that asks a program to end: saved, said how to go on, and gone on with to the same bits."
    process = begin("go", tmp_path/"run")
    wait_for(process, "step 5")
    process.send(getattr(signal, name))
    code, _, err = end(process)
    assert code == 3 and "go on with --resume" in err and 0 < step_of(tmp_path/"run") < STEPS, err
    assert end(begin("resume", tmp_path/"run"))[0] == 0
    assert tensors(tmp_path/"run") == tensors(through) and steps_logged(tmp_path/"run") == list(range(1, STEPS + 1))

def test_blocked_data_hears_signals(through, tmp_path):
    "Data that never comes: SIGTERM is heard all the same, and what was trained is saved."
    process = begin("blocked", tmp_path/"run")
    wait_for(process, "step 4")
    time.sleep(.5)
    process.send(signal.SIGTERM)
    code, _, err = end(process, 30)
    assert code == 3 and "stopped before step 5" in err and step_of(tmp_path/"run") == 4, err
    assert end(begin("resume", tmp_path/"run"))[0] == 0 and tensors(tmp_path/"run") == tensors(through)

def test_bad_rows_save_first(through, tmp_path):
    "A run that max_bad ends is saved first, and goes on with another max_bad, as its message says."
    code, _, err = end(begin("spoiled", tmp_path/"run"))
    assert code == 2 and "raise max_bad; the state after step 4 is saved" in err and step_of(tmp_path/"run") == 4, err
    assert end(begin("resume", tmp_path/"run"))[0] == 0 and tensors(tmp_path/"run") == tensors(through)

def test_linked_run_and_state(through, tmp_path):
    "RUN and RUN/state are links to folders elsewhere: saved through them, gone on with, and the links stay."
    (tmp_path/"elsewhere").mkdir()
    (tmp_path/"roomy"/"state").mkdir(parents=True)
    (tmp_path/"run").symlink_to(tmp_path/"elsewhere")
    (tmp_path/"elsewhere"/"state").symlink_to(tmp_path/"roomy"/"state")
    (tmp_path/"elsewhere"/".moca-run").write_text('{"stage": "run"}')
    process = begin("resume", tmp_path/"run") # it holds a link and a mark: nothing is trained yet
    wait_for(process, "step 5")
    process.send(signal.SIGTERM)
    assert end(process)[0] == 3 and step_of(tmp_path/"roomy") > 0
    assert end(begin("resume", tmp_path/"run"))[0] == 0
    assert (tmp_path/"run").is_symlink() and (tmp_path/"run"/"state").is_symlink() and tensors(tmp_path/"roomy") == tensors(through)

# --- several processes ------------------------------------------------------------------------------------------------------

def test_torchrun_on_cpus(through, tmp_path):
    "Two processes of torchrun without accelerate's flags join and train together."
    code, out, err = torchrun("go", tmp_path/"run")
    assert code == 0 and "process 1 of 2" in out and steps_logged(tmp_path/"run") == list(range(1, STEPS + 1)), err[-3000:]
    assert losses(tmp_path/"run") == pytest.approx(losses(through), rel=1e-5) and "in use" not in err

def losses(out): return [json.loads(line)["loss"] for line in (out/"log.jsonl").read_text().splitlines()]

def test_one_of_two_is_short_of_memory(through, tmp_path):
    "Under DDP a process that runs out of memory in its forward passes cuts its own micro-batches: the same losses, step by step."
    (one, _, first), (two, _, second) = map(end, group("starved", tmp_path/"run", WHO="1"))
    assert one == two == 0 and "taken in parts" in second and "taken in parts" not in first, second
    assert losses(tmp_path/"run") == pytest.approx(losses(through), rel=1e-5)

def test_one_of_two_cannot_go_on(tmp_path):
    "Data that fails on one process ends both, saved; both go on."
    (one, _, first), (two, _, second) = map(end, group("spoiled", tmp_path/"run", WHO="1"))
    assert one == two == 2 and "2 of 10 rows cannot be used" in second and "another process could not go on" in first, (first, second)
    assert step_of(tmp_path/"run") == 4
    assert [p.end()[0] for p in group("resume", tmp_path/"run")] == [0, 0] and step_of(tmp_path/"run") == STEPS

@pytest.mark.parametrize("dead", [0, 1])
def test_a_dead_process_is_named(dead, tmp_path):
    "One of two processes is killed in the middle: the other says which one, and ends."
    processes = group("dies", tmp_path/"run", WHO=str(dead))
    assert end(processes[dead])[0] == -signal.SIGKILL
    code, _, err = end(processes[1 - dead], 60)
    assert code == 2 and f"process {dead} (" in err and "go on with --resume" in err, err[-3000:]

# --- the stages -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mode", ["pretrain", "finetune"])
def test_a_run_goes_on_by_its_directory(mode, tmp_path):
    "`resume_run(RUN)` after SIGTERM and after kill -9 with a torn log: no other option, the same bits as undisturbed."
    kill_and_compare(mode, tmp_path, [signal.SIGTERM, signal.SIGKILL], random.Random(0), torn=True)

def test_what_can_be_resumed():
    "Each function that `resume_run` calls is there, takes `resume`, and its config is complete."
    for module, function, config in STAGES.values():
        found = importlib.import_module(module)
        assert "resume" in inspect.signature(getattr(found, function)).parameters and (config is None or dataclasses.is_dataclass(getattr(found, config)))

def kill_and_compare(mode, folder, signals, draw, torn=False):
    "Run a stage undisturbed, and with signals at random moments: how many of them hit a living process, and the seconds."
    plain, run = folder/"plain", folder/"run"
    code, _, err = end(begin(mode, plain), 600)
    assert code == 0, err[-3000:]
    began, hit = time.perf_counter(), 0
    for number in signals:
        process = begin(mode, run)
        before, early = max(saved_step(run), 0), draw.random() < .2 # early: while it starts
        moment = before + draw.uniform(1, STAGE_STEPS / 5)
        while process.alive() and not early and saved_step(run) < moment: time.sleep(.005)
        time.sleep(draw.uniform(0, 10 if early else .5))
        hit += process.alive()
        if process.alive(): process.send(number)
        code, _, err = end(process, 600)
        assert code in (0, 3, -signal.SIGKILL) or code == -signal.SIGTERM and early, err[-3000:]
        if torn and (run/"log.jsonl").exists():
            with open(run/"log.jsonl", "ab") as f: f.write(b'{"step": 99, "lo' + b"\0" * 99)
        if saved_step(run) >= .8 * STAGE_STEPS or code == 0: # far enough: finish it, and begin another
            finish(mode, run, plain)
            run.rename(folder/f"done{time.monotonic_ns()}")
    finish(mode, run, plain)
    return hit, time.perf_counter() - began

def finish(mode, run, plain):
    "Let a run go on to its end: the same bytes as undisturbed in the weights and the state, the same rows in the log."
    code, _, err = end(begin(mode, run), 600)
    assert code == 0, err[-3000:]
    compare(plain, run)

def saved_step(out):
    "Steps in the saved state, which another process may be replacing; -1 without one."
    try: return step_of(out)
    except (OSError, ValueError): return -1

def compare(plain, run):
    "The same bytes in the weights and the state, the same rows in the log."
    for name in ("state/tensors.safetensors", "model/model.safetensors"): assert (plain/name).read_bytes() == (run/name).read_bytes(), name
    rows = [[{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in (o/"log.jsonl").read_text().splitlines()] for o in (plain, run)]
    assert rows[0] == rows[1]

@pytest.mark.skipif(not SLOW, reason="MOCA_SLOW=1 runs it")
@pytest.mark.parametrize("mode", ["pretrain", "finetune"])
def test_kills(mode, tmp_path):
    "kill -9 at random moments of both stages, start and saving included; MOCA_KILLS says how many in all."
    hit, seconds = kill_and_compare(mode, tmp_path, [signal.SIGKILL] * (KILLS // 2), random.Random(mode))
    print(f"\n{mode}: {hit} of {KILLS // 2} kills hit a living process, {seconds:.0f} s, 0 failed, 0 differing bytes")

if __name__ == "__main__": main(*sys.argv[1:])
