#!/usr/bin/env python3
"""Makes tests/data/mmjit/: tiny random MM-JiT models and what PyTorch computes with them.

    make_mmjit_fixtures.py            both, in place
    make_mmjit_fixtures.py --check    remakes them in a temporary folder and compares, within 2e-5

published/ is as MiniT2I publishes it (no time, no adaLN, captions filled up to prompt_length); adaln/ has adaLN-zero and
captions of their own length. Each folder holds
    model.safetensors                  weights under their published names, the configuration in the metadata
    lora_initial, lora_trained         diffusers' LoRA files, by peft's LoRA (the patch embedding's are convolutions)
    expected.json                      losses and norms of the ten steps, settings
    expected.safetensors               inputs: caption.N (rows, W), pictures, times, noise (N, ...)
                                       pred (N, 3, S, S); loss (); grad.<parameter>; full.pred, lora.pred after ten steps
                                       euler.K, heun.K: both pictures after step K + 1, from noise.0 and noise.1

Traps these fixtures are made to catch:
 - heads * head_dim is 32, hidden_size 24; the grid is 3 x 3; the rotary table of text begins anew at 0.
 - The fixed position has sines and cosines of the column first, of the row second; rotary pairs the other way round.
 - A patch goes in by (channel, row, column) and comes out by (row, column, channel).
 - mask_token fills the caption before txt_embedder and counts in the pooled caption; caption 2 is dropped (no rows).
 - Nothing reads the text that the last block would make: its projection, MLP and second norm have no gradient.
 - The loss of a picture is the mean over its values of (x_pred - x)^2 / max(1 - t, eps)^2; one time is above 1 - eps.
 - Guidance holds for times within its interval alone; the last Heun step is an Euler step.
 - Decay is for weights of two axes or more (mask_token and the convolutions among them), not for norms and biases.
"""
import json
import math
import os
import zlib
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import peft
import torch
from fixture_files import finish, run, write
from safetensors.torch import load_file, save_file
from torch import nn

from reference_mmjit import MMJiT

ROOT = Path(__file__).resolve().parent.parent / "tests" / "data" / "mmjit"
STEPS, EPS, DRAW_STEPS = 10, 0.05, 5
OPTIMIZER = {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01, "clip_norm": 1.0}
GUIDANCE = {"steps": DRAW_STEPS, "guidance": 2.5, "guide_from": 0.1, "guide_to": 0.7}
COMMON = {"model_type": "mmjit", "image_size": 12, "in_channels": 3, "patch_size": 4, "pca_channels": 6,
          "hidden_size": 24, "txt_hidden_size": 24, "cond_vec_size": 24, "txt_input_size": 10, "txt_preamble_depth": 1,
          "depth_double": 2, "num_heads": 2, "head_dim": 16, "mlp_ratio": 2.0, "rope_theta": 10000.0, "noise_scale": 0.75,
          "prediction": "x"}
CONFIGS = {"published": COMMON | {"prompt_length": 5, "conditioning": "none"},
           "adaln": COMMON | {"prompt_length": 1, "conditioning": "adaln_zero"}}


# ---- flow matching ---------------------------------------------------------------------------------------------------

def mixed(c, batch):
    t = batch["times"][:, None, None, None]
    return t * batch["pictures"] + (1 - t) * c["noise_scale"] * batch["noise"]


def loss_of(model, c, batch):
    """The mean over pictures of the mean over values of (v_pred - v)^2."""
    z = mixed(c, batch)
    room = (1 - batch["times"]).clamp(min=EPS)[:, None, None, None]
    v_pred = (model(z, batch["times"], batch["captions"]) - z) / room
    return (v_pred - (batch["pictures"] - z) / room).square().mean()


def velocity(model, z, t, captions):
    times = torch.full((len(z),), t)

    def v(texts):
        return (model(z, times, texts) - z) / max(1 - t, EPS)
    if not GUIDANCE["guide_from"] <= t <= GUIDANCE["guide_to"]:
        return v(captions)
    dropped = v([c[:0] for c in captions])
    return dropped + GUIDANCE["guidance"] * (v(captions) - dropped)


def draw(model, z, captions, heun):
    path = []
    for i in range(DRAW_STEPS):
        t, after = i / DRAW_STEPS, (i + 1) / DRAW_STEPS
        first = velocity(model, z, t, captions)
        ahead = z + (after - t) * first
        if heun and i + 1 < DRAW_STEPS:
            ahead = z + (after - t) / 2 * (first + velocity(model, ahead, after, captions))
        z = ahead
        path.append(z.clone())
    return path


# ---- fixtures --------------------------------------------------------------------------------------------------------

def randomised(c):
    model = MMJiT(c)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.uniform_(0.5, 1.6)
            elif p.dim() == 1:
                p.normal_(0, 0.2)
            elif name == "mask_token":
                p.normal_(0, 1)
            elif "adaLN" in name:
                p.normal_(0, 0.5 / math.sqrt(p[0].numel()))
            else:
                p.normal_(0, 1.2 / math.sqrt(p[0].numel()))
    return model


def draw_batch(c, lengths, times):
    n, shape = len(lengths), (c["in_channels"], c["image_size"], c["image_size"])
    return {"captions": [torch.randn(length, c["txt_input_size"]) for length in lengths],
            "pictures": torch.rand(n, *shape) * 2 - 1, "times": torch.tensor(times), "noise": torch.randn(n, *shape)}


def train(model, c, batches):
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in trained if p.dim() >= 2], "weight_decay": OPTIMIZER["weight_decay"]},
              {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=OPTIMIZER["lr"], betas=OPTIMIZER["betas"], eps=OPTIMIZER["eps"], foreach=False)
    losses, norms = [], []
    for step in range(STEPS):
        adamw.zero_grad()
        loss = loss_of(model, c, batches[step % len(batches)])
        loss.backward()
        losses.append(float(loss.detach()))
        norms.append(float(nn.utils.clip_grad_norm_(trained, OPTIMIZER["clip_norm"])))
        adamw.step()
    return losses, norms


def adapted(model, rank, alpha):
    """peft's LoRA on every layer, the two convolutions among them."""
    layers = [n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    return peft.get_peft_model(model, peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers))


def save_lora(model, rank, alpha, path):
    """As diffusers' save_lora_weights writes it."""
    tensors = {k.replace("base_model.model.", "transformer."): v.contiguous()
               for k, v in peft.get_peft_model_state_dict(model).items()}
    modules = sorted({k.removeprefix("transformer.").split(".lora_")[0] for k in tensors})
    config = {"transformer.r": rank, "transformer.lora_alpha": alpha, "transformer.target_modules": modules}
    save_file(tensors, path, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(config, indent=2, sort_keys=True)})


def make(name, out):
    c = CONFIGS[name]
    torch.manual_seed(zlib.crc32(name.encode()))
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    model = randomised(c)
    save_file({k: v.detach().contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors",
              metadata={"format": "pt", "config": json.dumps(c)})

    batches = [draw_batch(c, lengths, times) for lengths, times in
               (((3, 7, 0), (0.2, 0.6, 0.97)), ((4, 1), (0.05, 0.5)), ((0, 2, 6, 5), (0.3, 0.9, 0.0, 0.4)))]
    tensors = {}
    for i, batch in enumerate(batches):
        tensors |= {f"batch.{i}.{k}": v for k, v in batch.items() if k != "captions"}
        tensors |= {f"batch.{i}.caption.{n}": caption for n, caption in enumerate(batch["captions"]) if len(caption)}
    with torch.no_grad():
        tensors["pred"] = model(mixed(c, batches[0]), batches[0]["times"], batches[0]["captions"])
        start = c["noise_scale"] * batches[0]["noise"][:2]
        for solver in ("euler", "heun"):
            for step, z in enumerate(draw(model, start, batches[0]["captions"][:2], solver == "heun")):
                tensors[f"{solver}.{step}"] = z
    loss = loss_of(model, c, batches[0])
    loss.backward()
    tensors |= {f"grad.{n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    expected = {"made_by": {"torch": torch.__version__, "peft": peft.__version__}, "optimizer": OPTIMIZER, "eps": EPS,
                "draw": GUIDANCE, "captions": [[len(x) for x in b["captions"]] for b in batches],
                "loss": float(loss.detach()), "training": {}}

    def fresh():
        again = MMJiT(c)
        again.load_state_dict(load_file(folder / "model.safetensors"))
        return again
    full = fresh()
    losses, norms = train(full, c, batches)
    expected["training"]["full"] = {"losses": losses, "grad_norms": norms}

    torch.manual_seed(zlib.crc32((name + "/lora").encode()))
    rank, alpha = 3, 6
    lora = adapted(fresh(), rank, alpha)
    save_lora(lora, rank, alpha, folder / "lora_initial.safetensors")
    losses, norms = train(lora, c, batches)
    save_lora(lora, rank, alpha, folder / "lora_trained.safetensors")
    expected["training"]["lora"] = {"rank": rank, "alpha": alpha, "losses": losses, "grad_norms": norms}
    with torch.no_grad():
        for way, tuned in (("full", full), ("lora", lora)):
            tensors[f"{way}.pred"] = tuned(mixed(c, batches[0]), batches[0]["times"], batches[0]["captions"])
    write(folder, tensors, expected)


def make_all(out):
    for name in CONFIGS:
        make(name, out)
    finish(out)


if __name__ == "__main__":
    run(__doc__, make_all, ROOT)
