"""Damaged files of every kind that moca reads: each is either read or refused with one sentence. No traceback, no hang, no flood of memory.

A kind is one line in `KINDS`: a function that writes sound files into a folder, and one that reads them through moca's own door.
The mutations are seeded by kind and number, so that `replay("csv", 137, folder)` writes the very file that failed.
MOCA_FUZZ=100 makes so many of each kind, instead of 1,000.
"""
import contextlib
import faulthandler
import gc
import io
import json
import os
import random
import resource
import signal
import tarfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer

from moca.data.account import Report
from moca.backbone import Backbone, add_projection, load_backbone, save
from moca.model.loading import read_projection
from moca.training.checkpoints import load_state, save_state
from moca.data.errors import MocaError
from moca.model.tiny import tiny_model
from moca.data.mixtures import load_documents, open_pairs
from moca.model.encoding import Encoder
from moca.reconstruction import PretrainConfig
from moca.model.saving import read_settings
from moca.training.config import make_config
from moca.training.log import read_log
from moca.model.trust import check_model, read_tensors

MOST = int(os.environ.get("MOCA_FUZZ", 1000)) # mutations of each kind
SECONDS, GROWTH = 5, 500 * 2**20 # that one reading may take: time, and bytes of memory
pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs signals")

# --- mutations -----------------------------------------------------------------------------------------------------------

ODD = [b"\0", b"\0" * 64, b"\xff\xfe", b"\xed\xa0\x80", b"-1", b"1e999", b"9" * 400, b"NaN", b"null", b"[]", b"{}", b'""', b"\n\n",
       b"[" * 3000, b"{\"a\":" * 3000, b"2147483648", b"18446744073709551615", b"../x/", b"\xe2\x80\x8b", b"\r", b"!!python/object:os.system"]
VALUES = [None, True, -1, 0, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"), "", "\0", "../x", "x/y", "\ud800", [], {}, [[]], {"a": {}}]

def bytes_of(r: random.Random, data: bytes, other: bytes) -> bytes:
    "A damaged copy of some bytes."
    at, length = r.randrange(len(data) + 1), r.choice((1, 2, 8, 64, 512))
    how = r.randrange(8)
    if how == 0: return data[:at]
    if how == 1: return data[:at] + data[at + length:]
    if how == 2: return data[:at] + r.choice(ODD) + data[at:]
    if how == 3: return data[:at] + r.choice(ODD) + data[at + length:]
    if how == 4: return data[:at] + other[r.randrange(len(other) + 1):][:length] + data[at + length:]
    if how == 5: return data[:at] + data[at:at + length] * r.choice((2, 50)) + data[at + length:]
    if how == 6: return data[:at] + bytes(min(length, len(data) - at)) + data[at + length:]
    out = bytearray(data)
    for _ in range(r.choice((1, 1, 4, 32))):
        if out: out[r.randrange(len(out))] ^= 1 << r.randrange(8)
    return bytes(out)

def json_of(r: random.Random, data: bytes) -> bytes:
    "The JSON document with one value exchanged, one key removed, or one value buried deep."
    root = json.loads(data)
    here = root
    while isinstance(here, (dict, list)) and here:
        key = r.choice(sorted(here)) if isinstance(here, dict) else r.randrange(len(here))
        if not isinstance(here[key], (dict, list)) or not here[key] or r.random() < .3: break
        here = here[key]
    else: return data
    how = r.randrange(4)
    if how == 0 and isinstance(here, dict): del here[key]
    elif how == 1 and isinstance(here[key], (int, float)): here[key] = r.choice((here[key] * -1, here[key] * 10**6, here[key] + 1, 10**9))
    elif how == 2: here[key] = r.choice(ODD).decode("latin-1")
    else: here[key] = r.choice(VALUES)
    return json.dumps(root).encode("utf-8", "surrogatepass")

def mutated(r: random.Random, name: str, data: bytes, other: bytes) -> bytes:
    "A damaged copy of a file: of its bytes, and of its entries where it is JSON."
    if name.endswith(".json") and r.random() < .6:
        with contextlib.suppress(ValueError, RecursionError): return json_of(r, data)
    for _ in range(r.choice((1, 1, 1, 3))): data = bytes_of(r, data, other)
    return data

# --- kinds ---------------------------------------------------------------------------------------------------------------

@dataclass
class Kind:
    "A kind of file: how to write sound ones, and how moca reads them."
    make: Callable[[Path], list[str]] # writes into a folder, returns the names of the files to damage
    read: Callable[[Path, int], None] # the folder, and the number of the mutation
    most: int = 1000 # mutations, where a reading is dear
    batch: int = 1 # damaged files that are read at once, as `name-7.png`, ...

def written(name: str, data: bytes | str):
    "A kind's `make` for one file."
    def make(folder):
        (folder/name).write_bytes(data.encode() if isinstance(data, str) else data)
        return [name]
    return make

def picture(format: str, size=(24, 16)) -> bytes:
    "A picture as a file."
    buffer = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(buffer, format)
    return buffer.getvalue()

ROWS = [{"id": str(k), "text": f"text {k}", "image": "a.png" if k % 2 else None} for k in range(6)]
PAIRS = [{"qry": f"find {k}", "pos": {"text": f"answer {k}"}, "neg": [f"other {k}"]} for k in range(6)]

def data_file(name: str, data: bytes | str, read: Callable = load_documents):
    "A data file beside a picture that it may name."
    def make(folder):
        (folder/"a.png").write_bytes(picture("PNG"))
        return written(name, data)(folder)
    return make, lambda folder, i: read(folder/name, verify=True)

def folder_of(format: str, suffix: str):
    "A folder of pictures."
    return written(f"a{suffix}", picture(format)), lambda folder, i: load_documents(folder, verify=True)

def parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b"], "image": [picture("PNG"), None]}), sink)
    return sink.getvalue()

def tar() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as t:
        for k in range(3):
            for suffix, data in ((".png", picture("PNG")), (".txt", b"a caption"), (".json", b'{"a": 1}')):
                member = tarfile.TarInfo(f"{k}{suffix}")
                member.size = len(data)
                t.addfile(member, io.BytesIO(data))
    return sink.getvalue()

def pdf() -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (40, 30), "white").save(sink, "PDF")
    return sink.getvalue()

MIXTURE = yaml.safe_dump({"sources": {"one": {"data": "rows.jsonl", "weight": 0.5}, "two": {"data": "rows.jsonl", "cap": 3}}})
def mixture(folder):
    (folder/"rows.jsonl").write_text("\n".join(map(json.dumps, [{"text": "a"}, {"text": "b"}])))
    return written("mix.yaml", MIXTURE)(folder)

def small_backbone() -> Backbone:
    "A small random model whose tokenizer knows single letters only: little to write and to read."
    net, tokenizer, processor = tiny_model("qwen2_5_vl")
    about = json.loads(tokenizer.backend_tokenizer.to_str())
    words = sorted(about["model"]["vocab"], key=about["model"]["vocab"].get)
    kept = [w for k, w in enumerate(words) if k < 16 or len(w) == 1]
    about["model"] |= dict(vocab={w: k for k, w in enumerate(kept)}, merges=[])
    about["added_tokens"] = [t for t in about["added_tokens"] if t["id"] < 16]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(about))
    net.resize_token_embeddings(len(tokenizer))
    return Backbone(net, Encoder(tokenizer, processor, net.config))

def model(*names, late: bool = False):
    "A small model with everything that moca writes, for one vector a Document or (late) one a token; some of its files are damaged."
    def make(folder):
        backbone = small_backbone()
        if late: add_projection(backbone, 8)
        save(backbone, folder)
        save_file({"bias": torch.zeros(4)}, folder/"heads.safetensors")
        return list(names)
    return make

def read_model(every: int):
    "Look at a model directory; load it once in a while."
    def read(folder, i):
        check_model(folder)
        read_settings(folder)
        if i % every == 0: load_backbone(folder, check=None if i % 50 == 0 else False)
    return read

def read_processor(folder, i):
    check_model(folder, weights=False)
    if i % 4 == 0: Encoder.from_pretrained(folder)

def index(folder):
    "A model in two shards."
    names = model("model.safetensors.index.json")(folder)
    (folder/"model.safetensors").rename(folder/"model-00001-of-00001.safetensors")
    table = {key: "model-00001-of-00001.safetensors" for key in check_tensors(folder)}
    (folder/names[0]).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": table}))
    return names

def check_tensors(folder) -> list[str]:
    from moca.model.trust import tensor_table
    return list(tensor_table([folder/"model-00001-of-00001.safetensors"]))

STATE = {"a": torch.zeros(3), "b.exp_avg": torch.zeros(2, 2)}
def state(folder):
    save_state(folder/"state", {k: v.clone() for k, v in STATE.items()}, step=3)
    return ["state/state.json", "state/tensors.safetensors"]

def report(folder, i):
    kept = Report("data", n_read=10)
    kept.keep(folder/"bad_samples.jsonl", max_bad=1.0)

LOG = "".join(json.dumps(dict(step=k, loss=1.0 / k, tokens=10)) + "\n" for k in range(1, 9))
BAD = "".join(json.dumps(dict(id=str(k), file="a.jsonl", reason="bad")) + "\n" for k in range(3))
JSONS = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "moca.json", "generation_config.json", "modules.json",
         "processor_config.json", "config_sentence_transformers.json", "sentence_bert_config.json", "1_Pooling/config.json")

KINDS = {
    "model JSONs": Kind(model(*JSONS), read_model(every=10)),
    "tokenizer": Kind(model("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"), read_processor),
    "weights": Kind(model("model.safetensors"), read_model(every=10)),
    "index": Kind(index, read_model(every=20)),
    "projection": Kind(model("projection.safetensors", late=True), lambda folder, i: read_projection(folder, 64)),
    "heads": Kind(model("heads.safetensors"), lambda folder, i: read_tensors(folder/"heads.safetensors")),
    "jsonl": Kind(*data_file("rows.jsonl", "\n".join(map(json.dumps, ROWS)))),
    "pairs": Kind(*data_file("pairs.jsonl", "\n".join(map(json.dumps, PAIRS)), open_pairs)),
    "csv": Kind(*data_file("rows.csv", "id,text,image\n" + "".join(f"00{k},text {k},a.png\n" for k in range(6)))),
    "parquet": Kind(*data_file("rows.parquet", parquet())),
    "tar": Kind(*data_file("rows.tar", tar())),
    "png": Kind(*folder_of("PNG", ".png"), batch=50),
    "jpeg": Kind(*folder_of("JPEG", ".jpg"), batch=50),
    "tiff": Kind(*folder_of("TIFF", ".tiff"), batch=50),
    "gif": Kind(*folder_of("GIF", ".gif"), batch=50),
    "pdf": Kind(written("a.pdf", pdf()), lambda folder, i: load_documents(folder, verify=True), batch=50),
    "mixture": Kind(mixture, lambda folder, i: load_documents(folder/"mix.yaml")),
    "config": Kind(written("config.yaml", "lr: 0.001\nsteps: 10\nbase: null\nmax_length: 64\ntext_ratio: 0.4\n"),
                   lambda folder, i: make_config(PretrainConfig, folder/"config.yaml")),
    "log": Kind(written("log.jsonl", LOG), lambda folder, i: read_log(folder/"log.jsonl", 5)),
    "bad samples": Kind(written("bad_samples.jsonl", BAD), report),
    "state": Kind(state, lambda folder, i: load_state(folder/"state", {k: v.clone() for k, v in STATE.items()})),
}

# --- the test ------------------------------------------------------------------------------------------------------------

class Hang(BaseException):
    "A reading that takes too long."

@contextlib.contextmanager
def limited(seconds: float):
    "At most so many seconds; a hang in native code ends the process with its traceback."
    def late(*args): raise Hang(f"longer than {seconds} s")
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(60, exit=True)
    try: yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)

def peak(reset: bool = False) -> int:
    "Most memory that this process has held, in bytes, since the last reset where the system can reset it."
    with contextlib.suppress(OSError):
        if reset: Path("/proc/self/clear_refs").write_text("5")
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"): return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def damage(kind: str, i: int, sound: dict[str, bytes]) -> tuple[str, bytes]:
    "The name and the bytes of the i-th mutation."
    r = random.Random(f"{kind}-{i}")
    name = r.choice(sorted(sound))
    return name, mutated(r, name, sound[name], sound[r.choice(sorted(sound))])

def replay(kind: str, i: int, folder: Path) -> None:
    "Write the i-th mutation of a kind into a folder, and read it: for a debugger."
    sound = {name: (folder/name).read_bytes() for name in KINDS[kind].make(folder)}
    name, data = damage(kind, i, sound)
    (folder/name).write_bytes(data)
    KINDS[kind].read(folder, i)

def outcome(read: Callable, folder: Path, i: int, seconds: float = SECONDS) -> str:
    "What is wrong with the way in which a folder was read; an empty string if nothing."
    try:
        with limited(seconds), warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            read(folder, i)
    except MocaError as e:
        return "" if len(str(e)) < 3000 else f"a message of {len(str(e))} characters"
    except (Exception, Hang) as e: return f"{type(e).__name__}: {str(e)[:150]}"
    except BaseException as e: # a panic in native code
        if isinstance(e, (KeyboardInterrupt, SystemExit)): raise
        return f"{type(e).__name__}: {str(e)[:150]}"
    return ""

def put(file: Path, data: bytes) -> None:
    "Write a new file: to cut an old one short makes some file systems wait for the disk."
    file.unlink(missing_ok=True)
    file.write_bytes(data)

def spread(folder: Path, kind: str, numbers: range, sound: dict[str, bytes]) -> list[Path]:
    "Write mutations into a folder, side by side where there are several; returns the files."
    files = []
    for i in numbers:
        name, data = damage(kind, i, sound)
        file = folder/name if len(numbers) == 1 else folder/f"{Path(name).stem}-{i}{Path(name).suffix}"
        put(file, data)
        files.append(file)
    return files

@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(kind, tmp_path):
    "A thousand damaged files: each read, or refused in one sentence, in time and in memory."
    k = KINDS[kind]
    names = k.make(tmp_path)
    sound = {name: (tmp_path/name).read_bytes() for name in names}
    assert not outcome(k.read, tmp_path, 0), "sound files are read"
    gc.collect()
    start, wrong = peak(reset=True), {}
    for first in range(0, min(MOST, k.most), k.batch):
        numbers = range(first, min(first + k.batch, MOST))
        if k.batch > 1:
            for name in names: (tmp_path/name).unlink(missing_ok=True)
        files = spread(tmp_path, kind, numbers, sound)
        if found := outcome(k.read, tmp_path, first, SECONDS * (4 if k.batch > 1 else 1)): wrong.setdefault(found, f"{kind} {first}")
        if k.batch > 1:
            for file in files: file.unlink()
        else: put(files[0], sound[str(files[0].relative_to(tmp_path))])
        if len(wrong) >= 8: break
    growth = peak() - start
    assert growth < GROWTH, f"{growth / 2**20:.0f} MiB more memory"
    assert not wrong, "\n".join(f"{where}: {what}" for what, where in wrong.items())

def test_the_test_can_fail(tmp_path):
    "A reader that raises, or waits, is caught."
    def waits(folder, i): signal.pause()
    def raises(folder, i): raise KeyError("x")
    def says(folder, i): raise MocaError("a sentence")
    assert "Hang" in outcome(waits, tmp_path, 0, seconds=.1) and "KeyError" in outcome(raises, tmp_path, 0)
    assert not outcome(says, tmp_path, 0)
    sound = {"a.json": b'{"a": {"b": [1, 2, {"c": "d"}]}}'}
    damaged = {damage("json", i, sound)[1] for i in range(300)}
    assert len(damaged) > 200 and damage("json", 7, sound) == damage("json", 7, sound)
    assert np.mean([d != sound["a.json"] for d in damaged]) > .9
