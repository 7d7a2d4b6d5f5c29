"""MM-JiT in PyTorch, under its published tensor names: what make_mmjit_fixtures.py holds ftlib against, one sample at a
time, so that no padding is involved; compare_with_pytorch/ trains the same modules in padded batches."""
import math

import torch
from torch import nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        inner = (int(c["hidden_size"] * c["mlp_ratio"]) + 7) // 8 * 8
        self.w1 = nn.Linear(c["hidden_size"], inner, bias=False)
        self.w3 = nn.Linear(c["hidden_size"], inner, bias=False)
        self.w2 = nn.Linear(inner, c["hidden_size"], bias=False)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


def turn(x, angles):
    """x (N, H, hd) by angles (N, hd / 2): element i turns with element i + hd / 2."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def frequencies(size, theta):
    return theta ** -(torch.arange(0, size, 2, dtype=torch.float32) / size)


def text_angles(length, c):
    return torch.outer(torch.arange(length, dtype=torch.float32), frequencies(c["head_dim"], c["rope_theta"]))


def grid_angles(c):
    side = c["image_size"] // c["patch_size"]
    place = torch.arange(side, dtype=torch.float32)
    axis = torch.outer(place, frequencies(c["head_dim"] // 2, c["rope_theta"]))
    rows = axis[:, None].expand(side, side, -1)
    columns = axis[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, -1)


def attend(qkv, angles, block):
    n, head = len(qkv), block.q_norm.weight.numel()
    q, k, v = qkv.reshape(n, 3, -1, head).unbind(1)
    q, k = turn(block.q_norm(q), angles), turn(block.k_norm(k), angles)
    scores = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(head)
    return torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).reshape(n, -1)


def add_stream(module, prefix, c):
    width, inner = c["hidden_size"], c["num_heads"] * c["head_dim"]
    setattr(module, prefix + "norm1", RMSNorm(width))
    setattr(module, prefix + "norm2", RMSNorm(width))
    setattr(module, prefix + "qkv", nn.Linear(width, 3 * inner))
    setattr(module, prefix + "attn_proj", nn.Linear(inner, width))
    setattr(module, prefix + "mlp", Mlp(c))


class TextBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        add_stream(self, "", c)
        self.q_norm, self.k_norm = RMSNorm(c["head_dim"]), RMSNorm(c["head_dim"])

    def forward(self, txt, angles):
        txt = txt + self.attn_proj(attend(self.qkv(self.norm1(txt)), angles, self))
        return txt + self.mlp(self.norm2(txt))


class DoubleBlock(nn.Module):
    def __init__(self, c, last):
        super().__init__()
        add_stream(self, "img_", c)
        add_stream(self, "txt_", c)
        self.q_norm, self.k_norm = RMSNorm(c["head_dim"]), RMSNorm(c["head_dim"])
        if c["conditioning"] == "adaln_zero":
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(c["hidden_size"], 6 * c["hidden_size"]))
        self.last = last

    def forward(self, img, txt, angles, condition):
        if condition is None:
            shift1 = scale1 = shift2 = scale2 = 0
            gate1 = gate2 = 1
        else:
            shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition).chunk(6, dim=-1)
        qkv = torch.cat([self.txt_qkv(self.txt_norm1(txt)), self.img_qkv(self.img_norm1(img) * (1 + scale1) + shift1)])
        y = attend(qkv, angles, self)
        img = img + gate1 * self.img_attn_proj(y[len(txt):])
        img = img + gate2 * self.img_mlp(self.img_norm2(img) * (1 + scale2) + shift2)
        if self.last:
            return img, txt
        txt = txt + self.txt_attn_proj(y[:len(txt)])
        return img, txt + self.txt_mlp(self.txt_norm2(txt))


def sincos_positions(c):
    side, waves = c["image_size"] // c["patch_size"], c["hidden_size"] // 4
    omega = 10000.0 ** -(torch.arange(waves, dtype=torch.float64) / waves)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    parts = []
    for place in (column, row):
        angle = place.reshape(-1, 1) * omega
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=1).float()


class MMJiT(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        width, p = c["hidden_size"], c["patch_size"]
        self.mask_token = nn.Parameter(torch.zeros(1, 1, c["txt_input_size"]))
        self.img_embedder = nn.ModuleDict({"proj1": nn.Conv2d(c["in_channels"], c["pca_channels"], p, p, bias=False),
                                           "proj2": nn.Conv2d(c["pca_channels"], width, 1)})
        self.txt_embedder = nn.Linear(c["txt_input_size"], width, bias=False)
        adaln = c["conditioning"] == "adaln_zero"
        if adaln:
            self.t_embedder = nn.ModuleDict(
                {"mlp": nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))})
            self.pooled_embedder = nn.Linear(c["txt_input_size"], width, bias=False)
        self.txt_preamble_blocks = nn.ModuleList(TextBlock(c) for _ in range(c["txt_preamble_depth"]))
        self.double_blocks = nn.ModuleList(DoubleBlock(c, i + 1 == c["depth_double"]) for i in range(c["depth_double"]))
        final = {"norm_final": RMSNorm(width), "linear": nn.Linear(width, p * p * c["in_channels"])}
        if adaln:
            final["adaLN_modulation"] = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.final_layer = nn.ModuleDict(final)

    def one(self, z, t, caption):
        c = self.c
        fill = max(0, c["prompt_length"] - len(caption))
        states = torch.cat([caption, self.mask_token[0].expand(fill, -1)])
        img = self.img_embedder["proj2"](self.img_embedder["proj1"](z[None]))[0].flatten(1).T + sincos_positions(c)
        txt = self.txt_embedder(states)
        condition = None
        if c["conditioning"] == "adaln_zero":
            angle = t * torch.exp(-math.log(10000.0) * torch.arange(128) / 128)
            waves = torch.cat([angle.cos(), angle.sin()])
            condition = self.t_embedder["mlp"](waves) + self.pooled_embedder(states.mean(0))
        angles = text_angles(len(txt), c)
        for block in self.txt_preamble_blocks:
            txt = block(txt, angles)
        angles = torch.cat([angles, grid_angles(c)])
        for block in self.double_blocks:
            img, txt = block(img, txt, angles, condition)
        img = self.final_layer["norm_final"](img)
        if condition is not None:
            shift, scale = self.final_layer["adaLN_modulation"](condition).chunk(2, dim=-1)
            img = img * (1 + scale) + shift
        side, p = c["image_size"] // c["patch_size"], c["patch_size"]
        values = self.final_layer["linear"](img).reshape(side, side, p, p, c["in_channels"])
        return values.permute(4, 0, 2, 1, 3).reshape(c["in_channels"], side * p, side * p)

    def forward(self, z, t, captions):
        return torch.stack([self.one(*sample) for sample in zip(z, t, captions)])
