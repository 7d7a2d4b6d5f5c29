#!/usr/bin/env python3
"""Makes tests/data/z_image/: a tiny random Z-Image transformer and what diffusers computes with it.

    make_z_image_fixtures.py            in place
    make_z_image_fixtures.py --check    remakes it in a temporary folder and compares, within 2e-5

The folder holds transformer/ as ZImageTransformer2DModel.save_pretrained writes it, in bfloat16 (its time embedding has 1,024
values inside, whatever the rest is); all is computed in float. expected.json and expected.safetensors hold
    text.N (tokens, W), empty: states of captions and of a dropped one; latents, sigmas, noise (N, ...)
    pred: velocities as the pipeline negates them; loss; grad.<parameter>, of the time embedding's first 8 rows alone
    step.K: latents after step K + 1 of the pipeline's loop under guidance, from start; times by shift and tokens

Traps these fixtures are made to catch:
 - One caption is longer than 32 tokens, and patches are fewer: pads of both kinds stand in attention, at places of their own.
 - A picture's first axis says how long its caption is, the pads counted. Pairs lie together.
 - The time that goes in is 1 - sigma. Scales have no shift, gates go through tanh, the time through no SiLU but at the end.
 - Channels lie together in a patch. Norms before and behind; those of q and k have another eps. Sides differ.
"""
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel
from diffusers.pipelines.z_image.pipeline_z_image import calculate_shift
from fixture_files import finish, run, write
from torch import nn

ROOT = Path(__file__).resolve().parent.parent / "tests" / "data" / "z_image"
CONFIG = {"in_channels": 3, "dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 12,
          "axes_dims": [4, 6, 6], "axes_lens": [128, 32, 32]}
SIDES, TOKENS, SIGMAS, STEPS, GUIDANCE, SHIFT = (4, 8), (5, 37, 32), [0.85, 0.4, 0.05], 4, 5.0, 3.0


def randomise(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:
                p.uniform_(0.5, 1.6) if "norm" in name or name == "cap_embedder.0.weight" else p.normal_(0, 0.3)
            else:
                p.normal_(0, (0.5 if "adaLN" in name else 1.2) / p.shape[1] ** 0.5)
    return model.eval()


def forward(model, z, sigma, text):
    out = model(list(z.unsqueeze(2).unbind(0)), 1 - sigma, list(text), return_dict=False)[0]
    return -torch.stack(out).squeeze(2)


def times_of(shift, tokens, steps):
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=shift == 0, shift=shift or 1.0)
    sigmas = torch.linspace(1.0, 1 / steps, steps).tolist()
    scheduler.set_timesteps(sigmas=sigmas, mu=calculate_shift(tokens, 256, 4096, 0.5, 1.15) if shift == 0 else None)
    return scheduler


def make(out):
    torch.manual_seed(51)
    model = randomise(ZImageTransformer2DModel(**CONFIG))
    model.to(torch.bfloat16).save_pretrained(out / "transformer")
    model = model.float()
    shape = (3, CONFIG["in_channels"], *SIDES)
    latents, noise, sigmas = torch.randn(shape), torch.randn(shape), torch.tensor(SIGMAS)
    text = [torch.randn(n, CONFIG["cap_feat_dim"]) for n in TOKENS]
    empty = torch.randn(7, CONFIG["cap_feat_dim"])
    s = sigmas[:, None, None, None]
    pred = forward(model, (1 - s) * latents + s * noise, sigmas, text)
    loss = nn.functional.mse_loss(pred, noise - latents)
    loss.backward()
    tensors = {f"text.{i}": t for i, t in enumerate(text)}
    tensors |= {"empty": empty, "latents": latents, "sigmas": sigmas, "noise": noise, "pred": pred, "start": noise[:2]}
    for name, p in model.named_parameters():
        tensors[f"grad.{name}"] = p.grad[:8] if name == "t_embedder.mlp.0.weight" else p.grad
    with torch.no_grad():
        scheduler, z = times_of(SHIFT, 8, STEPS), noise[:2]
        for i, t in enumerate(scheduler.timesteps):
            sigma = (t / 1000).expand(2)
            v, none = forward(model, z, sigma, text[:2]), forward(model, z, sigma, [empty] * 2)
            z = scheduler.step(v + GUIDANCE * (v - none), t, z, return_dict=False)[0]
            tensors[f"step.{i}"] = z
    write(out, tensors, {"made_by": {"torch": torch.__version__, "diffusers": diffusers.__version__}, "loss": float(loss.detach()),
                         "guidance": GUIDANCE, "steps": STEPS,
                         "sigmas": [{"shift": shift, "tokens": n, "steps": k,
                                     "values": [float(v) for v in times_of(shift, n, k).sigmas]}
                                    for shift, n, k in ((3.0, 8, 4), (6.0, 1024, 20), (0.0, 1024, 20), (0.0, 4096, 8))]})
    finish(out)


if __name__ == "__main__":
    run(__doc__, make, ROOT)
