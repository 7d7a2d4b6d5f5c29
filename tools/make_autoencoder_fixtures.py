#!/usr/bin/env python3
"""Makes tests/data/autoencoder/: tiny random autoencoders of pictures and what diffusers computes with them.

    make_autoencoder_fixtures.py            in place
    make_autoencoder_fixtures.py --check    remakes them in a temporary folder and compares, within 2e-5

flux2/ is an AutoencoderKLFlux2, plain/ an AutoencoderKL of FLUX.1's form, as save_pretrained writes them. Each has an
expected.safetensors
    pictures (2, 3, 16, 24), latents: their means as the pipeline normalises them, decoded: the way back
    target, seed, and grad.<parameter> of mean((decoded - target)^2) + mean(latents seed)
expected.json has that loss, scale and channels.

Traps these fixtures are made to catch:
 - Downwards a row and a column of zeros stand below and right alone.
 - The means come first, logarithms of variances behind them; nothing is drawn.
 - A patch's channel is 4 c + 2 dy + dx; running means and variances are of patches. plain/ shifts first, then scales.
 - plain/ has no quant_conv; flux2/'s decoder has other channels than its encoder. Pictures are not square.
"""
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import diffusers
import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2
from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline
from fixture_files import finish, run, write

ROOT = Path(__file__).resolve().parent.parent / "tests" / "data" / "autoencoder"


def blocks(n):
    return {"down_block_types": ["DownEncoderBlock2D"] * n, "up_block_types": ["UpDecoderBlock2D"] * n}


def autoencoders():
    return {"flux2": AutoencoderKLFlux2(**blocks(2), block_out_channels=(4, 8), decoder_block_out_channels=(2, 6),
                                        layers_per_block=1, latent_channels=2, norm_num_groups=2, sample_size=16),
            "plain": AutoencoderKL(**blocks(3), block_out_channels=(4, 4, 8), layers_per_block=1, latent_channels=3,
                                   norm_num_groups=4, sample_size=16, scaling_factor=0.3611, shift_factor=0.1159,
                                   use_quant_conv=False, use_post_quant_conv=False)}


def randomise(model):
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 1:
                p.uniform_(0.5, 1.5)
            else:
                p.normal_(0, 1.2 / p[0].numel() ** 0.5)
        if hasattr(model, "bn"):
            model.bn.running_mean.normal_(0, 0.5)
            model.bn.running_var.uniform_(0.3, 2)
    return model.eval()


def encode(model, pictures):
    means = model.encode(pictures).latent_dist.mean
    if not hasattr(model, "bn"):
        return (means - model.config.shift_factor) * model.config.scaling_factor
    patches = Flux2KleinPipeline._patchify_latents(means)
    bn = model.bn
    return (patches - bn.running_mean.view(1, -1, 1, 1)) / torch.sqrt(bn.running_var.view(1, -1, 1, 1) + model.config.batch_norm_eps)


def decode(model, latents):
    if not hasattr(model, "bn"):
        return model.decode(latents / model.config.scaling_factor + model.config.shift_factor).sample
    bn = model.bn
    patches = latents * torch.sqrt(bn.running_var.view(1, -1, 1, 1) + model.config.batch_norm_eps) + bn.running_mean.view(1, -1, 1, 1)
    return model.decode(Flux2KleinPipeline._unpatchify_latents(patches)).sample


def make(out):
    torch.manual_seed(31)
    for name, model in autoencoders().items():
        model = randomise(model)
        model.save_pretrained(out / name)
        pictures = torch.rand(2, 3, 16, 24) * 2 - 1
        latents = encode(model, pictures)
        decoded = decode(model, latents)
        target, seed = torch.rand_like(decoded) * 2 - 1, torch.randn_like(latents)
        loss = ((decoded - target) ** 2).mean() + (latents * seed).mean()
        loss.backward()
        tensors = {"pictures": pictures, "latents": latents, "decoded": decoded, "target": target, "seed": seed}
        tensors |= {f"grad.{n}": p.grad for n, p in model.named_parameters()}
        write(out / name, tensors, {"made_by": {"torch": torch.__version__, "diffusers": diffusers.__version__},
                                    "loss": float(loss.detach()), "channels": latents.shape[1],
                                    "pixels": 16 // latents.shape[2]})
    finish(out)


if __name__ == "__main__":
    run(__doc__, make, ROOT)
