"""Random tables of pairs, in every layout and file format, with random damage: rows and negatives add up, and what is kept is right."""
import csv
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from moca.data.content import content_key
from moca.data.errors import BadInput
from moca.data.pairs import COPY, EMPTY, TWICE, read_pairs

WORDS = ["a red ball", "[Music] la la", "['one', 'two'", "caf\u00e9", "zwei  Worte", "x" * 300, "<image> in words", "[1, 2]", "3.14", "null", "NaN"]
CELLS = WORDS[:7] # what a CSV file cannot take for anything else
NOTHING = ["", " \n", "\u200b", "\ufeff \u00a0"]


def drawn(folder: Path) -> list[str]:
    "Pictures of one size, each as a PNG and as a JPEG."
    for n, colour in enumerate(("crimson", "royalblue", "seagreen", "gold")):
        image = Image.new("RGB", (64, 48), "white")
        ImageDraw.Draw(image).ellipse((4 + 2 * n, 4, 40, 44), fill=colour)
        image.save(folder/f"{n}.png")
        image.save(folder/f"{n}.jpg", quality=90)
    (folder/"torn.png").write_bytes((folder/"0.png").read_bytes()[:60])
    return [f"{n}.png" for n in range(4)]


class Sides:
    "What a row should become, in the oracle's own words: texts and picture numbers."
    def __init__(self, draw: random.Random, images: bool, words: list[str] = WORDS):
        self.draw, self.images, self.words = draw, images, words

    def one(self, damage: float):
        "A side and what it means: (value, meaning); meaning None: nothing, False: cannot be read."
        if self.draw.random() < damage:
            return self.draw.choice([(self.draw.choice(NOTHING), None)] + [({"image": "torn.png"}, False), ({"image": "gone.png"}, False)] * self.images)
        if self.images and self.draw.random() < .5:
            n = self.draw.randrange(4)
            return {"image": f"{n}.{self.draw.choice(['png', 'jpg'])}"}, ("image", n)
        word = self.draw.choice(self.words)
        shown = self.draw.choice([word, f" {word}\n", word.replace(" ", " \u00a0")])
        return shown, ("text", " ".join(word.split()))

    def row(self, damage: float) -> dict:
        "Query, positives and negatives with their meanings."
        count = self.draw.choice([0, 1, 2, 2, 3, 9])
        positives = [self.one(damage) for _ in range(self.draw.choice([1, 1, 1, 2, 3]))]
        others = [({"image": "gone.png"}, False) if meaning is False else (value, meaning) for value, meaning in positives[1:]]
        return dict(query=self.one(damage), positives=positives[:1] + others, negatives=[self.one(damage) for _ in range(count)])


def expected(row: dict) -> tuple | None:
    "What is kept of a row, (query, positive, negatives, why others went); None: rejected."
    query, positives = row["query"][1], [p for _, p in row["positives"] if p is not None]
    negatives, seen = [m for _, m in row["negatives"]], []
    compared = positives if any(m is not None for m in negatives) else positives[:1]
    if not query or not positives or False in compared or False in negatives: return None
    kept, why = [], {EMPTY: 0, COPY: 0, TWICE: 0}
    for value, m in row["negatives"]:
        exact = str(value) if m and m[0] == "image" else m # the same picture under another format may be a negative twice
        if m is None: why[EMPTY] += 1
        elif m in positives: why[COPY] += 1
        elif exact in seen: why[TWICE] += 1
        else: kept.append(m)
        seen.append(exact)
    return query, positives[0], kept, why


def layout(name: str, row: dict) -> dict:
    "A row in a layout."
    value = lambda side: side[0]
    query, positives, negatives = value(row["query"]), [value(p) for p in row["positives"]], [value(n) for n in row["negatives"]]
    chat = lambda v: [{"role": "user", "content": [{"type": "image", "image": v["image"]}] if isinstance(v, dict) else v}]
    if name == "native": return dict(query=query, positive=positives[0], negatives=negatives)
    if name == "numbered": return dict(anchor=query, positive=positives[0]) | {f"negative_{k}": n for k, n in enumerate(negatives)}
    if name == "flag": return dict(query=query, pos=positives, neg=negatives, pos_scores=[1.0] * len(positives))
    if name == "colpali": return dict(query=query, pos_target=positives, neg_target=negatives)
    if name == "chats": return dict(query=chat(query), positive=chat(positives[0]), negatives=[chat(n) for n in negatives])
    if name == "swift": return dict(messages=chat(query), positive_messages=[chat(p) for p in positives], negative_messages=[chat(n) for n in negatives])
    apart = lambda v: ("<|image_1|>", v["image"]) if isinstance(v, dict) else (v, "")
    if name == "tevatron":
        text, image = apart(query)
        return dict(query_id=None, query_text="" if image else text, query_image=image, positive_passages=positives, negative_passages=negatives)
    if name == "mmeb":
        (qry, qry_image), (pos, pos_image), rest = apart(query), apart(positives[0]), list(map(apart, negatives))
        return dict(qry=qry, qry_image_path=qry_image, pos_text=pos, pos_image_path=pos_image, neg_text=[t for t, _ in rest],
                    neg_image_path=[p for _, p in rest])
    if name == "order": return dict(one=query, two=positives[0]) | {f"x{k}": n for k, n in enumerate(negatives)}
    if name == "folder":
        named = lambda key, v: {f"{key}_file_name": v["image"]} if isinstance(v, dict) else {key: v}
        return named("query", query) | named("positive", positives[0]) | {"negatives": negatives}
    raise KeyError(name)


def meaning(doc):
    "A Document in the oracle's words."
    if doc.images: return "image", int(Path(doc.images[0].name).stem)
    return "text", " ".join(doc.text.split())


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("name", ["native", "numbered", "flag", "colpali", "chats", "swift", "tevatron", "mmeb", "order", "folder"])
def test_json_lines(tmp_path, name, images):
    drawn(tmp_path)
    for seed in range(12):
        sides = Sides(random.Random(f"{name} {images} {seed}"), images)
        rows = [sides.row(sides.draw.choice([0, .1, .3])) for _ in range(20)]
        if name in ("native", "numbered", "chats", "mmeb", "order", "folder"):
            for r in rows: del r["positives"][1:]
        lines = [json.dumps(layout(name, r)) for r in rows]
        broken = {k for k in range(20) if sides.draw.random() < .1}
        path = tmp_path/f"{seed}.jsonl"
        path.write_text("\n".join("{torn" if k in broken else line for k, line in enumerate(lines)), "utf-8")
        options = dict(format=dict(numbered="native", chats="native", folder="native").get(name, name)) # broken lines first: nothing to tell it from
        check(path, [None if k in broken else expected(r) for k, r in enumerate(rows)], rows, **options)


@pytest.mark.parametrize("name", ["native", "flag"])
def test_tables(tmp_path, name):
    for seed in range(12):
        sides = Sides(random.Random(f"table {name} {seed}"), images=False, words=CELLS)
        rows = [sides.row(.2) for _ in range(15)]
        if name == "native":
            for r in rows: del r["positives"][1:]
        flat = [layout(name, r) for r in rows]
        pq.write_table(pa.Table.from_pylist([{k: v for k, v in r.items() if k != "pos_scores"} for r in flat]), tmp_path/"rows.parquet")
        check(tmp_path/"rows.parquet", [expected(r) for r in rows], rows)
        with open(tmp_path/"rows.csv", "w", newline="", encoding="utf-8") as f:
            out = csv.DictWriter(f, list(flat[0]))
            out.writeheader()
            out.writerows({k: json.dumps(v) if isinstance(v, list) else v for k, v in r.items()} for r in flat)
        check(tmp_path/"rows.csv", [expected(r) for r in rows], rows)


def check(path: Path, want: list, rows: list, **options) -> None:
    "Rows and negatives add up, and each kept Pair is what the oracle says."
    try: pairs, report = read_pairs(path, verify=True, **options)
    except BadInput as e:
        assert not any(want), e
        return
    assert report.n_met == len(want) == report.n_kept + len(report.rejected) + len(report.ignored)
    assert len(pairs) == report.n_kept == sum(w is not None for w in want)
    good = [(w, r) for w, r in zip(want, rows) if w is not None]
    account = pairs.base.tally.counts(pairs.index)
    assert account["met"] == sum(len(r["negatives"]) for _, r in good)
    assert account["met"] == sum(len(p.negatives) for p in pairs) + sum(account[why] for why in (EMPTY, COPY, TWICE))
    for p, (w, _) in zip(pairs, good):
        query, positive, negatives, _ = w
        assert (meaning(p.query), meaning(p.positive), [meaning(n) for n in p.negatives]) == (query, positive, negatives), p.id
        assert content_key(p.positive) not in map(content_key, p.negatives)
    for why in (EMPTY, COPY, TWICE): assert account[why] == sum(w[3][why] for w, _ in good), why


JUNK = [None, True, 0, -1, 1e308, float("nan"), float("inf"), "", " ", "[", "[[", "{}", "[Music]", "<image>", "<|image_1|>", "\x00", "x" * 200, [], [None], [[]],
        [1, 2], ["a", 3], {}, {"text": None}, {"text": 5}, {"image": ""}, {"image": 7}, {"image": "a\x00b"}, {"image": "../up.png"},
        {"image": "https://example.org/a.png"}, {"bytes": "/etc/hostname"}, {"bytes": None, "path": None}, {"parts": "a"}, {"parts": [{}, None]}, {"content": 3},
        {"content": None}, [{"role": "user"}], [{"content": [{"type": "audio"}]}], [{"from": "gpt", "value": 7}], {"docid": 1, "text": ["x"]}, {"id": []}]


def test_junk(tmp_path):
    "Whatever stands in whatever column: a row is kept or rejected with its place, and nothing else happens."
    from moca.data.pair_layouts import (MMEB_COLUMNS, NATIVE_COLUMNS, PAIR_FORMATS, SWIFT_COLUMNS,
                                        TEVATRON_COLUMNS)
    columns = dict(mmeb=MMEB_COLUMNS, native=NATIVE_COLUMNS | {"negative", "negative_7"}, swift=SWIFT_COLUMNS, tevatron=TEVATRON_COLUMNS)
    deep = "a"
    for _ in range(300): deep = [deep]
    for name, layout_ in PAIR_FORMATS.items():
        draw = random.Random(name)
        names = sorted(columns.get(name) or layout_.uses or {"a", "b", "c"}) + ["id", "query_file_name", "odd"]
        rows = [{c: draw.choice([*JUNK, deep]) for c in names if draw.random() < .7} for _ in range(300)]
        path = tmp_path/f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
        try: pairs, report = read_pairs(path, format=name, verify=True)
        except BadInput as e: # none was kept
            assert "none of 300 rows" in str(e) or "is not in the layout" in str(e), e
            continue
        assert report.n_met == 300 == len(pairs) + len(report.rejected)
        assert all(r.where.startswith(path.name) and 0 < len(r.why) < 500 for r in report.rejected)
        assert all(not p.query.text.isspace() for p in pairs)
        report.summary()
