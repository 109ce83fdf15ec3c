"""Nothing is lost: in random folders, archives and tables every file, member and line is in a row, rejected or
ignored, and the numbers add up.

Each text that is written holds a token of its own, and each tree an account of where its tokens and files are; what
`open_rows` gives is compared with that."""
import io
import json
import os
import random
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from moca.data.account import Report
from moca.data.images import ImageRef
from moca.data.errors import BadInput
from moca.data.opening import open_rows
from moca.data.paths import escaped
from moca.data.sources import Source
from moca.data.reading import check_images, open_source, keep_valid

TREES = 300
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jfif": "JPEG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP",
           ".tif": "TIFF", ".JPEG": "JPEG"}
SYSTEM = (".DS_Store", "._0.jpg", "Thumbs.db", "__MACOSX/x.jpg", ".cache/deep/x.json", "desktop.ini")
UNREAD = ("phone.heic", "song.mp3", "data.zip", "paper.docx", "noext", "more.tar.gz", "set.jsonl.zst")

def picture(rng, suffix):
    "An image as a file; now and then it is broken, has three frames, or is empty."
    kind, buffer = FORMATS[suffix], io.BytesIO()
    width, red = rng.randrange(8, 20), rng.randrange(256)
    frames = [Image.new("RGB", (width, 12), (red, 80 * k, 0)) for k in range(3)]
    more = dict(save_all=True, append_images=frames[1:]) if kind in ("GIF", "TIFF",
                                                                     "WEBP") and rng.random() < .4 else {}
    frames[0].save(buffer, kind, **more)
    data = buffer.getvalue()
    return rng.choice([data] * 8 + [data[:len(data) // 2], b""])

def pdf(rng):
    "A PDF of some empty pages, or half of one."
    n = rng.randrange(1, 4)
    kids = b" ".join(b"%d 0 R" % (3 + k) for k in range(n))
    objects = [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[%s]/Count %d>>" % (kids, n)]
    objects += [b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 50 50]>>"] * n
    body, places = b"%PDF-1.4\n", []
    for k, o in enumerate(objects, 1):
        places.append(len(body))
        body += b"%d 0 obj%sendobj\n" % (k, o)
    table = b"xref\n0 %d\n0000000000 65535 f \n" % (n + 3) + b"".join(b"%010d 00000 n \n" % at
                                                                      for at in places)
    return rng.choice([body + table
                       + b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (n + 3, len(body))] * 3
                      + [body[:40]])

class Tree:
    """A random folder, and where its tokens are: `tokens[token]` are the places, one of which must account
    for it."""
    def __init__(self, seed, root):
        self.rng, self.root, self.tokens, self.images, self.tables = random.Random(seed), root, {}, [], []
        self.members, self.n_tokens = {}, 0 # members of archives: {archive: names}
        root.mkdir()

    def token(self, *places):
        "A new text, and where it stands."
        self.n_tokens += 1
        token = f"token{self.n_tokens:04d}end"
        self.tokens[token] = places
        return token

    def write(self, name, data):
        "Write a file, once."
        path = self.root/name
        if os.path.lexists(path): return False
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return True

    def place(self):
        "A folder."
        return self.rng.choice(["", "", "a/", "a/b/", "train/", "test/", "caf\udce9/"])

    def image(self, beside=True):
        "An image, and perhaps files beside it."
        rng = self.rng
        suffix = rng.choice(list(FORMATS))
        stem = f"{self.place()}{rng.choice(['', 'x.'])}{len(self.images)}"
        name = stem + suffix
        if not self.write(name, picture(rng, suffix)): return
        self.images.append(name)
        for kind in rng.sample([".txt", ".caption", ".json", f"{suffix}.txt"],
                               rng.choice([0, 0, 1, 1, 2]) if beside else 0):
            token = self.token(stem + kind, name)
            self.write(stem + kind,
                       json.dumps({"note": token}) if kind == ".json"
                       else rng.choice([token] * 5 + [token.encode() + b"\xff"]))

    def text(self):
        "A text of its own."
        name = f"{self.place()}note{len(self.tokens)}{self.rng.choice(['.txt', '.md'])}"
        token = self.token(name)
        self.write(name, self.rng.choice([token] * 4 + [token.encode() + b"\xe9"]))

    def other(self):
        "A file of the system, or one that is not read."
        self.write(self.place() + self.rng.choice([*SYSTEM, *UNREAD]), "?")

    def link(self):
        "A link: to a file or a folder of the data, out, to nothing, or to itself."
        name = f"{self.place()}link{self.rng.randrange(1000)}{self.rng.choice(['', '.jpg', '.txt'])}"
        path = self.root/name
        if os.path.lexists(path): return
        path.parent.mkdir(parents=True, exist_ok=True)
        outside = self.root.parent/"outside.txt"
        outside.write_text("secret")
        to = self.rng.choice([self.root, self.root/"a", outside, outside.parent, self.root/"gone", path])
        path.symlink_to(os.path.relpath(to, path.parent))

    def rows(self, name, images):
        "Rows of a table: texts, and paths of images of its folder or below."
        rng, folder, rows = self.rng, os.path.dirname(name), []
        near = [os.path.relpath(i, folder or ".") for i in self.images if i.isprintable()
                and i.startswith(f"{folder}/" if folder else "")]
        for k in range(rng.randrange(1, 12)):
            row = {"text": self.token(name, f"{name}:{k + 1}")}
            if images: row[images] = rng.choice([*near, f"gone{k}.png"])
            rows.append(row)
        return rows

    def table(self, images=None):
        "A table; `images` is the column of their paths."
        rng = self.rng
        kind = rng.choice(["jsonl", "csv", "parquet", "ndjson", "json"])
        stem = rng.choice(["metadata", "train-0", "train-1", "test", "all"])
        name = f"{self.place()}{stem}.{kind}"
        if os.path.lexists(self.root/name): return
        rows = self.rows(name, images)
        if kind == "parquet":
            buffer = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(rows), buffer, row_group_size=4)
            data = buffer.getvalue()
        elif kind == "csv":
            data = "".join(",".join(r) + "\n" for r in [list(rows[0]), *(r.values() for r in rows)])
        elif kind == "json": data = json.dumps(rows)
        else: data = "\n".join(rng.choice([json.dumps(r)] * 8 + ["{oops " + r["text"]]) for r in rows)
        data = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
        data = data if rng.random() < .85 else data[:len(data) // 2]
        self.write(name, data)
        self.tables.append(name)
        mine = [t for t, places in self.tokens.items() if places[0] == name and kind != "parquet"]
        gone = [t for t in mine if t.encode() not in data]
        for token in gone: del self.tokens[token]

    def archive(self):
        "A tar file of samples in some order, with members of the system, links and a path that leads out."
        rng, members = self.rng, []
        name = f"{self.place()}{rng.choice(['train-2', 'test-1', 'part'])}.tar"
        if os.path.lexists(self.root/name): return
        dotted = rng.random() < .3
        for k in range(rng.randrange(1, 8)):
            key = f"d/25.{k}" if dotted else f"d/{k}"
            members.append((f"{key}.png", picture(rng, ".png")))
            if dotted or rng.random() < .8:
                members.append((f"{key}.txt", self.token(name, f"{name}:{key}").encode()))
            if rng.random() < .2: members.append((f"d/._{k}.png", b"?"))
            if rng.random() < .1: members.append((f"{key}.cls", None))
            if rng.random() < .1: members.append((f"../{k}.txt", self.token(name, f"{name}:../{k}").encode()))
        if rng.random() < .5: rng.shuffle(members)
        path = self.root/name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as out:
            for member, data in members:
                info = tarfile.TarInfo(member)
                if data is None: info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                else: info.size = len(data)
                out.addfile(info, None if data is None else io.BytesIO(data))
        if rng.random() < .15: path.write_bytes(path.read_bytes()[:rng.randrange(600, 3000)])
        self.members[name] = [m for m, _ in members]
        self.tables.append(name)

def random_tree(seed, root):
    "Loose files, a table of images, shards, or everything at once."
    tree = Tree(seed, root)
    rng, style = tree.rng, seed % 4
    for _ in range(rng.randrange(1, 8) if style in (0, 1, 3) else 0):
        tree.image(beside=style != 1 or rng.random() < .3)
    for _ in range(rng.randrange(0, 3)): tree.text()
    for _ in range(rng.randrange(0, 3)): tree.other()
    for _ in range(rng.randrange(0, 3)): tree.link()
    if style in (0, 3): [tree.write(f"{tree.place()}{k}.pdf", pdf(rng)) for k in range(rng.randrange(0, 2))]
    if style == 1: [tree.table(rng.choice(["image", "file_name"])) for _ in range(rng.randrange(1, 3))]
    if style == 2: [rng.choice([tree.table, tree.archive])() for _ in range(rng.randrange(1, 4))]
    if style == 3:
        [rng.choice([tree.table, tree.archive, lambda: tree.table("image")])()
         for _ in range(rng.randrange(0, 3))]
    return tree

def names_below(root):
    "Files, and links to folders, below a folder."
    for folder, folders, files in os.walk(root):
        for name in files + [f for f in folders if os.path.islink(os.path.join(folder, f))]:
            yield os.path.relpath(os.path.join(folder, name), root)

class Account:
    "What `open_rows` says of a folder."
    def __init__(self, root, split):
        rows = open_rows(root, split)
        self.kept, self.bad = {}, {}
        for i in range(len(rows)):
            try: self.kept[rows.where(i)] = (rows.make(i), rows.folder(i))
            except BadInput as e: self.bad[rows.where(i)] = str(e)
        assert len(self.kept) + len(self.bad) == len(rows), "two rows stand at one place"
        self.rejected, self.ignored = dict(rows.rejected), {x.name: x.why for x in rows.ignored}
        assert len(self.rejected) == len(rows.rejected), "rejected twice"
        assert len(self.ignored) == len(rows.ignored), "ignored twice"
        self.used = {path for row in self.kept.values() for path in self.images(*row)}
        self.files = {self.file_of(w) for w in (*self.kept, *self.bad)}

    @staticmethod
    def file_of(where):
        "The file that a place is in."
        return where.split("#")[0].split(":")[0]

    @staticmethod
    def images(row, folder):
        "The paths of images in a row."
        for value in (row.get("image", row.get("file_name")), *(row.get("images") or ())):
            if isinstance(value, ImageRef) and isinstance(value.source, Path):
                yield os.path.abspath(value.source)
            if isinstance(value, str): yield os.path.abspath(os.path.join(folder, value))

    def roles(self, root, name):
        "What a file is: source of rows, part of a row, rejected, ignored."
        shown, stem = escaped(name), os.path.splitext(name)[0]
        above = [f"{escaped(p.as_posix())}/" for p in Path(name).parents if p.name] + [f"{shown}/"]
        sidecar = [escaped(i) for i in names_below(root)
                   if name in (i + ".txt",
                               *(os.path.splitext(i)[0] + s for s in (".txt", ".caption", ".json")))
                   and os.path.splitext(i)[1] in FORMATS and i != name
                   and os.path.splitext(i)[0] in (stem, os.path.splitext(stem)[0])]
        source, part = shown in self.files, os.path.abspath(root/name) in self.used
        broken = shown in self.rejected or not source and any(w.startswith(shown + ":")
                                                              for w in self.rejected)
        beside = bool(set(sidecar) & self.files) and not source
        return [role for role, found in dict(row=source or part or beside, rejected=broken,
                                             ignored=any(x in self.ignored for x in (shown, *above))).items()
                if found]

@pytest.fixture(scope="module")
def seen():
    "How often what happened, over all trees."
    return Counter()

@pytest.mark.parametrize("block", range(10))
def test_every_file_has_one_place(block, tmp_path, seen):
    """In a row, rejected, or ignored: exactly one of these; no token is lost; the numbers of the report add
    up."""
    for seed in range(block, TREES, 10):
        tree = random_tree(seed, tmp_path/str(seed))
        split = tree.rng.choice([None, None, "all"])
        try: found = Account(tree.root, split)
        except BadInput as e:
            assert tree.images and tree.tables and "name one of the two" in str(e), (seed, str(e))
            seen["refused"] += 1
            continue
        for name in names_below(tree.root):
            roles = found.roles(tree.root, name)
            assert len(roles) == 1, (seed, name, roles)
            seen[roles[0]] += 1
        check_tokens(tree, found, seed)
        check_members(tree, found, seed)
        check_report(tree.root, split, seed)
    assert seen["row"] and seen["rejected"] and seen["ignored"]

def check_tokens(tree, found, seed):
    "Each token is in a row, or one of its places is rejected or ignored."
    kept = {where: str(row) for where, (row, _) in found.kept.items()}
    out = {*found.rejected, *found.bad, *found.ignored}
    for token, places in tree.tokens.items():
        inside = [where for where, row in kept.items() if token in row]
        shown = [escaped(p) for p in places]
        left_out = [o for o in out if any(o == p or p.startswith(o) and o.endswith("/") for p in shown)]
        # an archive or a list that breaks off
        behind = [o for o in found.rejected if any(o.startswith(p + ":") for p in shown)]
        # a broken line, a page
        cut = [w for w in found.bad if any(w.startswith((p + ":", p + "#")) for p in shown)]
        assert inside or left_out or behind or cut, (seed, token, places)

def check_members(tree, found, seed):
    "A sample that is kept has all its members."
    for archive, members in tree.members.items():
        here = f"{archive}:"
        rows = {w.removeprefix(here): row for w, (row, _) in found.kept.items() if w.startswith(here)}
        for member in members:
            key = member.rpartition(".")[0]
            if key not in rows: continue
            assert ("image" if member.endswith("png") else "text") in rows[key], (seed, archive, member)

def check_report(root, split, seed):
    "Met is kept, rejected and ignored together."
    report = Report(str(seed))
    good, _ = keep_valid(open_source(Source(str(root), split=split)), report, check_images)
    assert report.n_met == report.n_kept + len(report.rejected) + len(report.ignored), seed
    assert report.n_kept == len(good), seed
