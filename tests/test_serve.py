"The server from outside: fuzzed bodies, many clients at once, paths that lead elsewhere, signals. What it does is shown in nbs/apps/05_serve.ipynb."
import base64
import io
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytest.importorskip("lancedb")

import torch  # noqa: E402
import uvicorn  # noqa: E402
from PIL import Image  # noqa: E402

from moca.apps.embed import embed_corpus  # noqa: E402
from moca.apps.search import Searcher, query_document  # noqa: E402
from moca.apps.serve import PAGE, _Server, app, listen  # noqa: E402
from moca.apps.tables import open_table  # noqa: E402
from moca.data.corpus import load_corpus  # noqa: E402
from moca.data.documents import Document  # noqa: E402
from moca.embedder import Embedder  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent

def make_table(embedder, docs, path):
    "A table of Documents, opened."
    embed_corpus(embedder, docs, path, thumbnails=True, progress=False)
    return open_table(path)

SECRET = "the text of a file that no row may give away"

@pytest.fixture(scope="module")
def embedder(): return Embedder.from_pretrained()

@pytest.fixture(scope="module")
def documents():
    corpus = load_corpus().documents("test")
    return [*corpus[::60], *[d for d in corpus if d.images][:8]]

@pytest.fixture(scope="module")
def table(embedder, documents, tmp_path_factory):
    "A table whose last rows name files that are no images."
    folder = tmp_path_factory.mktemp("table")
    (folder/"secret.txt").write_text(SECRET)
    (folder/"secret.png").write_text(SECRET)
    rows = [Document(f"row {i}/../x", d.parts, d.source) for i, d in enumerate(documents)]
    bad = [Document(f"secret {i}", ("a text",), source) for i, source in
           enumerate((str(folder/"secret.txt"), str(folder/"secret.png"), "/etc/passwd", "../../etc/passwd"))]
    return make_table(embedder, [*rows, *bad], folder/"t.lance")

class Running:
    "A server in a thread of this process."
    def __init__(self, searcher, **options):
        sock = listen(port=0)
        self.address = f"http://127.0.0.1:{sock.getsockname()[1]}"
        self.app = app(searcher, **options)
        self.server = _Server(uvicorn.Config(self.app, log_level="critical", access_log=False))
        self.thread = threading.Thread(target=self.server.run, args=([sock],), daemon=True)
        self.thread.start()

    def stop(self):
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()

@pytest.fixture(scope="module")
def server(embedder, table):
    running = Running(Searcher(table, embedder))
    yield running
    running.stop()

@pytest.fixture
def client(server):
    with httpx.Client(verify=False, base_url=server.address, timeout=60) as one: yield one

def picture(size=(64, 48), seed=0):
    out = io.BytesIO()
    g = torch.Generator().manual_seed(seed)
    Image.fromarray(torch.randint(0, 256, (*size[::-1], 3), generator=g, dtype=torch.uint8).numpy()).save(out, "PNG")
    return out.getvalue()

def address(data, kind="png"): return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

def refused(answer, *statuses):
    "A refusal is JSON with one sentence."
    assert answer.status_code in (statuses or range(400, 500)), (answer.status_code, answer.text[:300])
    message = answer.json()["error"]["message"]
    assert message and "\n" not in message and len(message) <= 600 and "Traceback" not in message
    return message

def alive(client):
    found = client.post("/search", json=dict(text="a red flag", k=3))
    assert found.status_code == 200 and len(found.json()["hits"]) == 3
    assert client.get("/health").json()["waiting"] == 0

# --- garbage -------------------------------------------------------------------------------------------------------------

GOOD = {"/search": dict(text="a red flag", k=3, source="e", kind="text"),
        "/v1/embeddings": dict(input=["a", {"text": "b"}], encoding_format="float", dimensions=8),
        "/heatmap": dict(id="row 0/../x", text="a flag")}
ODD = [None, True, -1, 0, 2**70, 1e308, "", " ", "\0", "\ud800", "'", "'; DROP TABLE t; --", "<|image_pad|>", "💥" * 50, [], {}, [[]],
       [None], [1, 2], {"text": 1}, {"image": "x"}, {"image": {"image": {}}}, "data:image/png;base64,", "data:image/png;base64,####",
       "file:///etc/passwd", "http://127.0.0.1/x.png", "x" * 90_000]

def bodies(n=150):
    "Bodies that are nearly right, and some that are nothing at all."
    dice = random.Random(0)
    for path, good in GOOD.items():
        for name in good:
            for odd in ODD: yield path, json.dumps(good | {name: odd}).encode("utf-8", "surrogatepass")
        yield path, b"[" * 5000 + b"]" * 5000
        yield path, b'{"text": NaN, "k": Infinity}'
    for _ in range(n):
        path = dice.choice(list(GOOD))
        body = bytearray(json.dumps(GOOD[path]).encode())
        for _ in range(dice.randint(1, 6)): body[dice.randrange(len(body))] = dice.randrange(256)
        yield path, bytes(body[:dice.randint(0, len(body))] if dice.random() < .5 else body)

def test_survives_garbage(client):
    "Whatever the body: an answer, or one sentence with a 4xx; never a 5xx, and the server lives on."
    seen = set()
    for path, body in bodies():
        answer = client.post(path, content=body, headers={"content-type": "application/json"})
        if answer.status_code != 200: refused(answer)
        seen.add(answer.status_code)
    assert {200, 400} <= seen
    alive(client)

def test_other_requests(client):
    "Unknown addresses, methods and kinds of body."
    assert "nothing at /nope" in refused(client.get("/nope"), 404)
    assert "does not take GET" in refused(client.get("/search"), 405)
    refused(client.post("/search", content=b"a=b", headers={"content-type": "application/x-www-form-urlencoded"}))
    refused(client.post("/search", files={"image": b"x"}))
    assert client.get("/health", headers={"host": "evil.example"}).status_code == 400, "DNS rebinding"
    assert "is unknown" in refused(client.post("/search", json=dict(text="a", colour="red")))
    assert "filter" in refused(client.post("/search", json=dict(text="a", where="no_such_column = 1")))
    assert "no row" in refused(client.post("/search", json=dict(like="nobody")))
    assert "serve" not in refused(client.post("/v1/embeddings", json=dict(input="a", model="gpt-x")), 404).split(",")[1]

def huge_png(side=50_000):
    "The header of a PNG of 50,000 x 50,000 pixels, and hardly anything behind it."
    def chunk(kind, data): return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")

@pytest.mark.parametrize("data, said", [(huge_png(), "more than 64,000,000 pixels"), (picture()[:2000], "cannot be used"), (b"hello", "cannot be used"),
                                        (b"", "damaged"), (b"<svg></svg>", "SVG"), (picture((400, 1)), "strip")],
                         ids=["huge", "truncated", "garbage", "empty", "svg", "strip"])
def test_bad_images(client, data, said):
    "Each is refused in a sentence, alone and in company."
    assert said in refused(client.post("/search", json=dict(image=address(data))), 400)
    assert said in refused(client.post("/v1/embeddings", json=dict(input=["a", {"image": address(data)}])), 400)
    alive(client)

def test_too_large(embedder, table):
    "A body above the limit is refused, with and without a header that says so."
    running = Running(Searcher(table, embedder), most=100_000)
    body = json.dumps(dict(text="x" * 300_000)).encode()
    with httpx.Client(verify=False, base_url=running.address) as one:
        for content in (body, iter([body[:50_000], body[50_000:]])):
            assert "larger than" in refused(one.post("/search", content=content, headers={"content-type": "application/json"}), 413)
        alive(one)
    running.stop()

# --- files ---------------------------------------------------------------------------------------------------------------

def test_no_way_out(client):
    "An id is looked up, never opened; a row that names another file shows nothing of it."
    ways = ["../../etc/passwd", "/etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "....//etc/passwd", "secret 0\0.png"]
    ways += [f"secret {i}" for i in range(4)]
    for way in ways:
        for url in (f"/image/{quote(way)}", f"/image?id={quote(way, safe='')}", f"/image?id={quote(way, safe='')}&size=large"):
            answer = client.get(url)
            assert answer.status_code in (400, 404) and SECRET not in answer.text and "root:" not in answer.text, url
    raw = socket.create_connection(("127.0.0.1", client.base_url.port))
    raw.sendall(b"GET /static/../../../../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    said = b"".join(iter(lambda: raw.recv(65536), b""))
    assert b"404" in said.split(b"\r\n")[0] and b"root:" not in said

def test_images_of_rows(client, documents):
    "An id may hold anything; its image comes as JPEG."
    i = next(i for i, d in enumerate(documents) if d.images)
    for url in (f"/image?id={quote(f'row {i}/../x', safe='')}", f"/image/{quote(f'row {i}/../x', safe='')}"):
        answer = client.get(url)
        if answer.status_code == 404: continue # a client may shorten a path with .. in it
        assert answer.headers["content-type"] == "image/jpeg" and max(Image.open(io.BytesIO(answer.content)).size) <= 256
    assert client.get(f"/image?id={quote(f'row {i}/../x', safe='')}").status_code == 200

def test_page_needs_nothing_from_outside(client):
    "The page and what it loads are served here, and name no other server."
    page = client.get("/")
    assert page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]
    for name in re.findall(r'(?:src|href)="(static/[^"]+)"', page.text): assert client.get(f"/{name}").status_code == 200, name
    for file in PAGE.iterdir():
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|url\(|@import|innerHTML|\beval\b", text), file.name

# --- many at once --------------------------------------------------------------------------------------------------------

def test_fifty_clients(server, embedder):
    "Fifty clients at once, texts and images: each gets the vector of its own input."
    inputs = [dict(text=f"a text about {i}") if i % 5 else dict(text=f"image {i}", image=address(picture(seed=i))) for i in range(150)]
    right = embedder.encode([query_document(x["text"], base64.b64decode(x["image"].split(",")[1]) if "image" in x else None) for x in inputs])
    packs = server.app.state.service.packs
    packs.calls = packs.served = 0
    def ask(x):
        with httpx.Client(verify=False, base_url=server.address, timeout=60) as one:
            return one.post("/v1/embeddings", json=dict(input=x)).json()["data"][0]["embedding"]
    with ThreadPoolExecutor(50) as pool: found = torch.tensor(list(pool.map(ask, inputs)))
    assert (found - right).abs().max() <= 1e-5
    assert packs.served == 150 > 2 * packs.calls, "they shared Packs"

def test_back_pressure(embedder, table):
    "A full queue says so at once; what was let in is answered."
    running = Running(Searcher(table, embedder), places=4)
    def ask(i):
        with httpx.Client(verify=False, base_url=running.address, timeout=60) as one: return one.post("/v1/embeddings", json=dict(input=[f"text {i}"] * 3))
    hold = threading.Event()
    running.app.state.service.packs.run(hold.wait)
    with ThreadPoolExecutor(12) as pool:
        coming = [pool.submit(ask, i) for i in range(12)]
        threading.Timer(1, hold.set).start()
        answers = [one.result() for one in coming]
    busy = [a for a in answers if a.status_code == 503]
    assert busy and all(a.headers["retry-after"] == "1" and "try again" in refused(a, 503) for a in busy)
    assert sum(a.status_code == 200 for a in answers) == len(answers) - len(busy) > 0
    running.stop()

# --- a process -----------------------------------------------------------------------------------------------------------

def start(table, *options):
    process = subprocess.Popen([sys.executable, "-m", "moca", "serve", str(table.path), "--port", "0", *options], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | dict(PYTHONPATH=str(ROOT)))
    line = process.stdout.readline()
    found = re.search(r"http://\S+", line)
    assert found, line + process.stderr.read()
    return process, found[0]

@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly(table, number):
    "A signal ends the server; what it was asked before is answered."
    process, url = start(table)
    with ThreadPoolExecutor(1) as pool, httpx.Client(verify=False, base_url=url, timeout=60) as one:
        assert one.get("/health").json()["status"] == "ok"
        coming = pool.submit(one.post, "/v1/embeddings", json=dict(input=["a text"] * 300))
        while not httpx.get(f"{url}/health").json()["waiting"] and not coming.done(): pass
        process.send_signal(number)
        assert len(coming.result().json()["data"]) == 300
    said, complaints = process.communicate(timeout=30)
    assert process.returncode == 0 and "Traceback" not in complaints, complaints

def test_port_in_use(table):
    "One sentence, exit code 2."
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run([sys.executable, "-m", "moca", "serve", str(table.path), "--port", port], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "is in use" in done.stderr

# --- how quick: python tests/test_serve.py -------------------------------------------------------------------------------

async def load(url, bodies, clients):
    "Seconds of each request, and of all of them together, when so many clients ask one after another."
    import asyncio
    import time
    todo, seconds = list(bodies), []
    async def one(client):
        while todo:
            body, began = todo.pop(), time.perf_counter()
            answer = await client.post(f"{url}/v1/embeddings", content=body, headers={"content-type": "application/json"})
            assert answer.status_code == 200, answer.text[:200]
            seconds.append(time.perf_counter() - began)
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=clients), timeout=120, verify=False) as client:
        began = time.perf_counter()
        await asyncio.gather(*(one(client) for _ in range(clients)))
        return sorted(seconds), time.perf_counter() - began

def inputs(docs):
    "Documents of the corpus as inputs of the server."
    out = []
    for doc in docs:
        x = dict(text="\n".join(p for p in doc.parts if isinstance(p, str)))
        for image in doc.images[:1]:
            file = io.BytesIO()
            image.open().save(file, "PNG")
            x["image"] = address(file.getvalue())
        out.append(x)
    return out

def quantiles(seconds): return {f"p{q}_ms": round(1e3 * sorted(seconds)[len(seconds) * q // 100], 2) for q in (50, 95)}

def timed(what, n=200):
    "Milliseconds of a call: median and 95th percentile."
    import time
    seconds = []
    for _ in range(n):
        began = time.perf_counter()
        what()
        seconds.append(time.perf_counter() - began)
    return quantiles(seconds)

def measure(n=800, clients=50, rounds=3):
    "Throughput of clients against one call of `encode`, and the latency of a short query against its forward pass."
    import asyncio
    import tempfile
    import time
    from moca.apps.serve import input_documents
    from moca.backbone import embed_pack
    from moca.model.encoding import encode
    from moca.model.packing import pack
    embedder, corpus = Embedder.from_pretrained(), load_corpus().documents("test")
    embedder.backbone.eval()
    given = inputs(corpus[i * len(corpus) // n] for i in range(n))
    docs, bodies = input_documents(given), [json.dumps(dict(input=x, encoding_format="base64")).encode() for x in given]
    query = json.dumps(dict(input="a red flag")).encode()
    lone = pack([encode(embedder.backbone.encoder, query_document("a red flag"))])
    with tempfile.TemporaryDirectory() as tmp:
        process, url = start(make_table(embedder, corpus[:20], Path(tmp)/"t.lance"))
        asyncio.run(load(url, bodies[:100], clients))
        for _ in range(rounds):
            assert process.poll() is None, process.communicate()
            began = time.perf_counter()
            embedder.encode(docs)
            batch = time.perf_counter() - began
            seconds, together = asyncio.run(load(url, bodies, clients))
            print(json.dumps(dict(batch_per_s=round(n / batch, 1), clients_per_s=round(n / together, 1), ratio=round(batch / together, 3),
                                  **quantiles(seconds))))
        with torch.no_grad(), httpx.Client(base_url=url, verify=False) as one:
            ask = lambda: one.post("/v1/embeddings", content=query, headers={"content-type": "application/json"})
            for name, what in {"forward": lambda: embed_pack(embedder.backbone, lone, embedder.pooling), "http": ask,
                               "health": lambda: one.get("/health"), "encode": lambda: embedder.encode(["a red flag"])}.items():
                print(name, json.dumps(timed(what)))
        process.terminate()

if __name__ == "__main__": measure()
