"A table that is written while its process is killed: no row is missing, none is there twice."
import json, multiprocessing, os, random, shutil, signal, time
import numpy as np
import pytest

# A server imports once and forks for each run: a run of its own, without the seconds of importing.
server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(["moca.embedder", "moca.apps.embed", "moca.data.mixtures", "lancedb"])
CHUNK = 4

def embed(data, path, begun=None):
    "What a forked process does."
    os.environ["TQDM_DISABLE"] = "1"
    import torch
    from moca.apps.embed import embed_corpus
    from moca.data.mixtures import load_documents
    from moca.embedder import Embedder
    torch.set_num_threads(1)
    docs, report = load_documents(data)
    embedder = Embedder.from_pretrained()
    if begun: begun.set()
    embed_corpus(embedder, docs, path, report, chunk=CHUNK, progress=False)

def rows_of(path):
    "Ids and vectors of a table, in its order."
    from moca.apps.tables import open_table
    table = open_table(path)
    rows = table.rows(range(len(table)))
    return [row["id"] for row in rows], np.array([row["vector"] for row in rows])

@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "Data, and the ids and vectors of a run that nothing stopped."
    folder = tmp_path_factory.mktemp("apps")
    rows = [dict(id=f"n{i}", text=f"the number {i} " * (1 + i % 7)) for i in range(80)]
    (folder/"data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    embed(folder/"data.jsonl", folder/"whole.parquet")
    ids, vectors = rows_of(folder/"whole.parquet")
    assert ids == [row["id"] for row in rows]
    return folder/"data.jsonl", ids, vectors

def check(path, whole):
    "The table is the one that nothing stopped."
    ids, vectors = rows_of(path)
    assert ids == whole[1]
    assert np.allclose(vectors, whole[2], atol=1e-5)

def start(data, path):
    "A run in a process of its own, which has begun to embed."
    begun = server.Event()
    process = server.Process(target=embed, args=(data, path, begun))
    process.start()
    assert begun.wait(60)
    return process

def clear(path):
    "Away with a table."
    for old in (path, path.with_name(path.name + ".parts")):
        if old.is_dir(): shutil.rmtree(old)
        else: old.unlink(missing_ok=True)

@pytest.mark.parametrize("name", ["t.parquet", "t.lance"])
def test_twenty_kills(whole, tmp_path, name):
    "SIGKILL at random moments, and each time the same call goes on; a table that is whole is begun anew."
    path, draw, kills = tmp_path/name, random.Random(name), 0
    process, before = start(whole[0], path), time.monotonic()
    process.join(60)
    limit = .7 * (time.monotonic() - before)
    check(path, whole)
    clear(path)
    while kills < 20:
        process = start(whole[0], path)
        process.join(draw.uniform(0, limit))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join(60)
        kills += process.exitcode == -signal.SIGKILL
        assert process.exitcode in (0, -signal.SIGKILL)
        if process.exitcode == 0:
            check(path, whole)
            clear(path)
    process = start(whole[0], path)
    process.join(60)
    assert process.exitcode == 0
    check(path, whole)
    assert not path.with_name(path.name + ".parts").exists()
