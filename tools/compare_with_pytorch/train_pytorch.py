#!/usr/bin/env python3
"""Trains an MM-JiT base in PyTorch, as its competent user would write it: the peer that compare.py measures.

    train_pytorch.py --base BASE --data DATA --out REPORT.json [--lora]

Captions are padded to the batch's longest and masked in attention, by PyTorch's fused kernel; AdamW; the published
parameter names, so that the base's file is loaded as it is. Captions' states are those that ftlib left in DATA."""
import argparse
import json
import math
import random
import resource
import sys
import time
from pathlib import Path

try:
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file
    from torch import nn
    from torch.nn import functional as F

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import reference_mmjit
except ImportError as error:
    sys.exit(f"train_pytorch.py: {error}\n  hint: pip install -r tools/requirements-reference.txt")

EPS = 0.05  # 1 - t counts as this at least
reference_mmjit.RMSNorm.forward = lambda self, x: F.rms_norm(x, x.shape[-1:], self.weight, 1e-6)  # the fused one


def turn(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def attend(qkv, cos, sin, mask, block):
    batch, n, _ = qkv.shape
    head = block.q_norm.weight.numel()
    q, k, v = qkv.reshape(batch, n, 3, -1, head).permute(2, 0, 3, 1, 4)
    q, k = turn(block.q_norm(q), cos, sin), turn(block.k_norm(k), cos, sin)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return y.transpose(1, 2).reshape(batch, n, -1)


def text_block(block, txt, cos, sin, mask):
    txt = txt + block.attn_proj(attend(block.qkv(block.norm1(txt)), cos, sin, mask, block))
    return txt + block.mlp(block.norm2(txt))


def double_block(block, img, txt, condition, cos, sin, mask):
    shift1 = scale1 = shift2 = scale2 = 0
    gate1 = gate2 = 1
    if condition is not None:
        shift1, scale1, gate1, shift2, scale2, gate2 = block.adaLN_modulation(condition)[:, None].chunk(6, dim=-1)
    qkv = torch.cat(
        [block.txt_qkv(block.txt_norm1(txt)), block.img_qkv(block.img_norm1(img) * (1 + scale1) + shift1)], dim=1)
    y, texts = attend(qkv, cos, sin, mask, block), txt.shape[1]
    img = img + gate1 * block.img_attn_proj(y[:, texts:])
    img = img + gate2 * block.img_mlp(block.img_norm2(img) * (1 + scale2) + shift2)
    if block.last:
        return img, txt
    txt = txt + block.txt_attn_proj(y[:, :texts])
    return img, txt + block.txt_mlp(block.txt_norm2(txt))


class BatchedMMJiT(reference_mmjit.MMJiT):
    """The same modules over a batch: captions padded to the longest, fused attention."""

    def __init__(self, c):
        super().__init__(c)
        self.register_buffer("positions", reference_mmjit.sincos_positions(c), persistent=False)
        self.register_buffer("grid", reference_mmjit.grid_angles(c), persistent=False)

    def forward(self, z, t, captions):
        """captions: a list of (rows, W); none: dropped. mask_token fills up to prompt_length, which is 1 here."""
        c, batch = self.c, len(z)
        captions = [s if len(s) else self.mask_token[0] for s in captions]
        lengths = torch.tensor([len(s) for s in captions])
        states = nn.utils.rnn.pad_sequence(captions, batch_first=True)
        texts, patches = states.shape[1], len(self.positions)
        seen = torch.arange(texts) < lengths[:, None]
        img = self.img_embedder["proj2"](self.img_embedder["proj1"](z)).flatten(2).transpose(1, 2) + self.positions
        txt = self.txt_embedder(states)
        condition = None
        if c["conditioning"] == "adaln_zero":
            angle = t[:, None] * torch.exp(-math.log(10000.0) * torch.arange(128) / 128)
            pooled = states.sum(1) / lengths[:, None]  # padding is zero
            condition = self.t_embedder["mlp"](torch.cat([angle.cos(), angle.sin()], 1)) + self.pooled_embedder(pooled)
        angles = torch.cat([reference_mmjit.text_angles(texts, c), self.grid])
        cos, sin = angles.cos(), angles.sin()
        for block in self.txt_preamble_blocks:
            txt = text_block(block, txt, cos[:texts], sin[:texts], seen[:, None, None])
        mask = torch.cat([seen, torch.ones(batch, patches, dtype=torch.bool)], 1)[:, None, None]
        for block in self.double_blocks:
            img, txt = double_block(block, img, txt, condition, cos, sin, mask)
        img = self.final_layer["norm_final"](img)
        if condition is not None:
            shift, scale = self.final_layer["adaLN_modulation"](condition)[:, None].chunk(2, dim=-1)
            img = img * (1 + scale) + shift
        side, p = c["image_size"] // c["patch_size"], c["patch_size"]
        values = self.final_layer["linear"](img).reshape(batch, side, side, p, p, c["in_channels"])
        return values.permute(0, 5, 1, 3, 2, 4).reshape(batch, c["in_channels"], side * p, side * p)


def add_lora(model, rank):
    """LoRA on every linear layer but the convolutions, as peft's all-linear has it; the rest is frozen."""
    class Adapted(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base
            self.a = nn.Parameter(torch.empty(rank, base.in_features).uniform_(-1, 1) / math.sqrt(base.in_features))
            self.b = nn.Parameter(torch.zeros(base.out_features, rank))

        def forward(self, x):
            return self.base(x) + F.linear(F.linear(x, self.a), self.b)

    model.requires_grad_(False)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                module._modules[name] = Adapted(child)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--style", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--warmup", type=int, default=5, help="steps before the clock starts")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    random.seed(args.seed)

    path = args.base / "model.safetensors"
    metadata = safe_open(path, "pt").metadata()
    config, encoding = json.loads(metadata["config"]), json.loads(metadata["text_encoding"])
    model = BatchedMMJiT(config)
    model.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    if args.lora:
        add_lora(model, args.rank)
    learned = [p for p in model.parameters() if p.requires_grad]

    records = [json.loads(line) for line in (args.data / "records.jsonl").open(encoding="utf-8")]
    rows = [i for i, r in enumerate(records) if r["split"] == "train" and r.get("style") == args.style]
    pictures = load_file(args.data / "pictures.safetensors")["pictures"][rows].float()
    states = load_file(next(args.data.glob("text-states-*.safetensors")))
    mean, scale = torch.tensor(encoding["mean"]), torch.tensor(encoding["scale"])
    captions = [((states[records[i]["caption"]].float() - mean) * scale).clamp(-encoding["limit"], encoding["limit"])
                for i in rows]

    optimizer = torch.optim.AdamW(learned, args.lr, betas=(0.9, 0.99), weight_decay=0)
    losses, started = [], time.perf_counter()
    for step in range(args.warmup + args.steps):
        if step == args.warmup:
            started = time.perf_counter()
        chosen = random.sample(range(len(rows)), args.batch)
        x = pictures[chosen]
        text = [captions[i] if random.random() >= 0.1 else captions[i][:0] for i in chosen]
        t = torch.sigmoid(-0.8 + 0.8 * torch.randn(args.batch))
        tt = t[:, None, None, None]
        z = tt * x + (1 - tt) * config["noise_scale"] * torch.randn_like(x)
        loss = (((model(z, t, text) - x) / (1 - tt).clamp(min=EPS)).square()).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        losses.append(loss.item())
    seconds = time.perf_counter() - started
    json.dump({"pictures_per_second": args.steps * args.batch / seconds, "losses": losses,
               "trained": sum(p.numel() for p in learned),
               "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}, open(args.out, "w"))


if __name__ == "__main__":
    main()
