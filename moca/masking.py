import hashlib, torch
def document_ids(cu):
    n = cu.diff().long(); return torch.repeat_interleave(torch.arange(len(n), device=cu.device), n)
def attention_mask(x, kind):
    cu = torch.tensor([0, x]) if isinstance(x, int) else x
    d = document_ids(cu); m = d[:, None] == d[None]
    return m.tril() if kind == "causal" else m
def generator(*key):
    return torch.Generator().manual_seed(int.from_bytes(hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest(), "big") >> 1)
def mask_tokens(maskable, ratio, g): return (torch.rand(len(maskable), generator=g) < ratio) & maskable
def mask_patches(n, ratio, g): return torch.rand(n, generator=g) < ratio
def corrupt_tokens(ids, m, t): return torch.where(m, torch.full_like(ids, t), ids)
def corrupt_patches(pv, m, g, noise="gaussian", unit=4):
    out = pv.clone(); r = m.repeat_interleave(unit); out[r] = torch.randn(int(r.sum()), pv.shape[1], generator=g); return out
