#!/usr/bin/env python3
"""Makes tests/data/z_image/: a tiny random Z-Image pipeline and what diffusers computes with it.

    make_z_image_fixtures.py            in place
    make_z_image_fixtures.py --check    remakes it in a temporary folder and compares, within 2e-5

The folder holds the pipeline as ZImagePipeline.save_pretrained writes it, its transformer in bfloat16 (its time embedding has 1,024
values inside, whatever the rest is); all is computed in float. lora_initial/ and lora_trained/ are adapters as
ZImagePipeline.save_lora_weights writes them, before and after ten steps. expected.json and expected.safetensors hold
    text.N (tokens, W), empty: states of captions and of a dropped one; latents, sigmas, noise (N, ...)
    pred: velocities as the pipeline negates them; loss; grad.<parameter>, of the time embedding's matrices the first 8 rows alone
    step.K: latents after step K + 1 of the pipeline's loop under guidance, from start; times by shift and tokens
    lora.pred: velocities of lora_trained/; its losses and norms of gradients
    prompts, states.N (tokens, W), states.empty: Qwen3's states; pipe.start, pictures: from that noise, values in [0, 1]
    photos, pipe.latents, pipe.noise, pipe.sigmas, pipe.loss: of one batch of training, photo N under prompt N

Traps these fixtures are made to catch:
 - One caption is longer than 32 tokens, and patches are fewer: pads of both kinds stand in attention, at places of their own.
 - A picture's first axis says how long its caption is, the pads counted. Pairs lie together.
 - The time that goes in is 1 - sigma. Scales have no shift, gates go through tanh, the time through no SiLU but at the end.
 - States are those before the last layer; thinking is on, nothing is padded, a long text is cut with its template's end.
 - Latents are (z - shift) scale. Guidance 5 is v + 5 (v - v_dropped).
 - Channels lie together in a patch. Norms before and behind; those of q and k have another eps. Sides differ.
"""
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import diffusers
import peft
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from diffusers.pipelines.z_image.pipeline_z_image import calculate_shift
from fixture_files import finish, run, write
from make_autoencoder_fixtures import blocks, encode
from make_autoencoder_fixtures import randomise as randomise_autoencoder
from make_flux2_fixtures import save_lora, train
from make_klein_fixtures import text_encoder, tokenizer
from torch import nn

ROOT = Path(__file__).resolve().parent.parent / "tests" / "data" / "z_image"
CONFIG = {"in_channels": 3, "dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 12,
          "axes_dims": [4, 6, 6], "axes_lens": [128, 32, 32]}
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
PROMPTS = ["red apple", "a dog, in oil, on a very large table beside a window that is open"]
LENGTH, SIDE, DRAW_STEPS, PIPE_SIGMAS = 80, 16, 3, [0.7, 0.2]
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


class Case:
    def __init__(self, latents, noise, sigmas, text):
        self.latents, self.noise, self.sigmas, self.text = latents, noise, sigmas, text

    def predict(self, model, turn=0):
        s = self.sigmas[:, None, None, None]
        text = [self.text[(i - turn) % len(self.text)] for i in range(len(self.text))]
        return forward(model, (1 - s) * self.latents + s * self.noise, self.sigmas, text)

    def loss(self, model, turn=0):
        return nn.functional.mse_loss(self.predict(model, turn), self.noise - self.latents)


def pipeline(out, model):
    """What the whole of it makes of words and of photos."""
    vae = randomise_autoencoder(AutoencoderKL(**blocks(2), block_out_channels=(4, 8), layers_per_block=1,
                                              latent_channels=CONFIG["in_channels"], norm_num_groups=2, sample_size=16,
                                              scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False,
                                              use_post_quant_conv=False))
    pipe = ZImagePipeline(FlowMatchEulerDiscreteScheduler(shift=SHIFT), vae, text_encoder(CONFIG["cap_feat_dim"]), tokenizer(), model)
    pipe.set_progress_bar_config(disable=True)
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        getattr(pipe, part).save_pretrained(out / part)
    (out / "model_index.json").write_text(pipe.to_json_string())
    with torch.no_grad():
        text, empty = pipe.encode_prompt(list(PROMPTS), negative_prompt=[""] * len(PROMPTS), max_sequence_length=LENGTH)
        tensors = {f"states.{i}": t for i, t in enumerate(text)} | {"states.empty": empty[0]}
        start = tensors["pipe.start"] = torch.randn(2, CONFIG["in_channels"], SIDE // 2, SIDE // 2)
        tensors["pictures"] = pipe(prompt=list(PROMPTS), height=SIDE, width=SIDE, num_inference_steps=DRAW_STEPS,
                                   guidance_scale=GUIDANCE, latents=start, output_type="pt", max_sequence_length=LENGTH).images
        photos = tensors["photos"] = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
        latents = tensors["pipe.latents"] = encode(vae, photos)
        case = Case(latents, torch.randn_like(latents), torch.tensor(PIPE_SIGMAS), text)
        tensors |= {"pipe.noise": case.noise, "pipe.sigmas": case.sigmas}
        return tensors, float(case.loss(model))


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
        tensors[f"grad.{name}"] = p.grad[:8] if name.startswith("t_embedder") and p.dim() == 2 else p.grad
    with torch.no_grad():
        scheduler, z = times_of(SHIFT, 8, STEPS), noise[:2]
        for i, t in enumerate(scheduler.timesteps):
            sigma = (t / 1000).expand(2)
            v, none = forward(model, z, sigma, text[:2]), forward(model, z, sigma, [empty] * 2)
            z = scheduler.step(v + GUIDANCE * (v - none), t, z, return_dict=False)[0]
            tensors[f"step.{i}"] = z
    tensors_of_pipe, pipe_loss = pipeline(out, model)
    tensors |= tensors_of_pipe
    model.zero_grad()
    model.requires_grad_(False)
    model.add_adapter(peft.LoraConfig(r=3, lora_alpha=6, target_modules=TARGETS, init_lora_weights="gaussian"))
    save_lora(model, out / "lora_initial", ZImagePipeline)
    case = Case(latents, noise, sigmas, text)
    losses, norms = train(model, case)
    save_lora(model, out / "lora_trained", ZImagePipeline)
    with torch.no_grad():
        tensors["lora.pred"] = case.predict(model)
    write(out, tensors, {"made_by": {"torch": torch.__version__, "diffusers": diffusers.__version__, "peft": peft.__version__},
                         "loss": float(loss.detach()), "lora": {"losses": losses, "grad_norms": norms},
                         "prompts": PROMPTS, "length": LENGTH, "draw_steps": DRAW_STEPS, "pipe_loss": pipe_loss,
                         "guidance": GUIDANCE, "steps": STEPS,
                         "sigmas": [{"shift": shift, "tokens": n, "steps": k,
                                     "values": [float(v) for v in times_of(shift, n, k).sigmas]}
                                    for shift, n, k in ((3.0, 8, 4), (6.0, 1024, 20), (0.0, 1024, 20), (0.0, 4096, 8))]})
    finish(out)


if __name__ == "__main__":
    run(__doc__, make, ROOT)
