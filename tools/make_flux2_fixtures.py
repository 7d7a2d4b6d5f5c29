#!/usr/bin/env python3
"""Makes tests/data/flux2/: a tiny random FLUX.2 transformer of klein's form and what diffusers computes with it.

    make_flux2_fixtures.py            in place
    make_flux2_fixtures.py --check    remakes it in a temporary folder and compares, within 2e-5

The folder holds
    transformer/                 as Flux2Transformer2DModel.save_pretrained writes it
    single.safetensors           the same weights under Black Forest Labs' names (bfl_names), without a configuration
    lora_initial/, lora_trained/ as Flux2KleinPipeline.save_lora_weights writes them, of peft's target list
    expected.json                losses and norms of the ten steps; sigmas of the scheduler by tokens and steps
    expected.safetensors         text.N (tokens, W), empty (tokens, W) of a dropped caption; latents, times (sigma), noise (N, ...)
                                 pred; grad.<parameter>; lora.pred after ten steps
                                 step.K: latents after step K + 1 of the pipeline's loop under guidance, from start

Traps these fixtures are made to catch:
 - Text comes first in joint attention, and its tokens turn by the fourth axis; pictures' by the second and third. Pairs lie together.
 - One modulation of each kind is all blocks'; norm_out has scale before shift, in the single file after it.
 - A single block has q, k, v, gate and up in one matrix, and attention's result before the MLP's in another.
 - sigma times 1000 goes into the waves, cosines first. The velocity is noise less latents.
 - The shift of the times depends on tokens and steps.
"""
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import diffusers
import numpy as np
import peft
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from fixture_files import finish, run, write
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

ROOT = Path(__file__).resolve().parent.parent / "tests" / "data" / "flux2"
CONFIG = {"patch_size": 1, "in_channels": 4, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16,
          "num_attention_heads": 2, "joint_attention_dim": 24, "timestep_guidance_channels": 256, "mlp_ratio": 3.0,
          "axes_dims_rope": (4, 4, 4, 4), "rope_theta": 2000, "guidance_embeds": False}
SIDE, TOKENS, SIGMAS = 4, 6, [0.85, 0.4, 0.05]
STEPS, DRAW_STEPS, GUIDANCE = 10, 5, 4.0
OPTIMIZER = {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01, "clip_norm": 1.0}
TARGETS = ["to_out.0", "to_add_out", "to_qkv_mlp_proj", "add_q_proj", "add_k_proj", "add_v_proj", "to_q", "to_k", "to_v",
           "linear_in", "linear_out"]


def randomise(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:
                p.uniform_(0.5, 1.6)
            elif "modulation" in name or "norm_out" in name:
                p.normal_(0, 0.5 / p.shape[1] ** 0.5)
            else:
                p.normal_(0, 1.2 / p.shape[1] ** 0.5)
    return model.eval()


def forward(model, z, sigma, text):
    """(N, ch, S, S) latents as the pipeline packs and unpacks them."""
    n, ch, side, _ = z.shape
    rows = torch.cartesian_prod(torch.arange(1), torch.arange(side), torch.arange(side), torch.arange(1))
    words = torch.cartesian_prod(torch.arange(1), torch.arange(1), torch.arange(1), torch.arange(text.shape[1]))
    out = model(hidden_states=z.flatten(2).transpose(1, 2), encoder_hidden_states=text, timestep=sigma,
                img_ids=rows[None].expand(n, -1, -1), txt_ids=words[None].expand(n, -1, -1), guidance=None, return_dict=False)[0]
    return out.transpose(1, 2).reshape(n, ch, side, side)


class Case:
    def __init__(self):
        n, shape = len(SIGMAS), (CONFIG["in_channels"], SIDE, SIDE)
        self.latents, self.noise = torch.randn(n, *shape), torch.randn(n, *shape)
        self.sigmas = torch.tensor(SIGMAS)
        self.text = torch.randn(n, TOKENS, CONFIG["joint_attention_dim"])
        self.empty = torch.randn(TOKENS, CONFIG["joint_attention_dim"])

    def mixed(self):
        s = self.sigmas[:, None, None, None]
        return (1 - s) * self.latents + s * self.noise

    def loss(self, model, turn=0):
        return nn.functional.mse_loss(forward(model, self.mixed(), self.sigmas, self.text.roll(turn, 0)), self.noise - self.latents)


def train(model, case):
    trained = [p for p in model.parameters() if p.requires_grad]
    adamw = torch.optim.AdamW(trained, lr=OPTIMIZER["lr"], betas=OPTIMIZER["betas"], eps=OPTIMIZER["eps"],
                              weight_decay=OPTIMIZER["weight_decay"], foreach=False)
    losses, norms = [], []
    for step in range(STEPS):
        adamw.zero_grad()
        loss = case.loss(model, step % 3)
        loss.backward()
        losses.append(float(loss.detach()))
        norms.append(float(nn.utils.clip_grad_norm_(trained, OPTIMIZER["clip_norm"])))
        adamw.step()
    return losses, norms


def bfl_names(state):
    """diffusers' tensors as the single file has them: the inverse of convert_flux2_to_diffusers.py."""
    plain = {"x_embedder": "img_in", "context_embedder": "txt_in", "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
             "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer", "proj_out": "final_layer.linear"}
    plain |= {f"{kind}.linear": f"{kind}.lin" for kind in ("double_stream_modulation_img", "double_stream_modulation_txt",
                                                           "single_stream_modulation")}
    out = {theirs + ".weight": state[ours + ".weight"] for ours, theirs in plain.items()}
    scale, shift = state["norm_out.linear.weight"].chunk(2)
    out["final_layer.adaLN_modulation.1.weight"] = torch.cat([shift, scale])
    for i in range(CONFIG["num_layers"]):
        at, to = f"transformer_blocks.{i}.", f"double_blocks.{i}."
        for stream, (q, k, v, o, norm, ff) in {
                "img": ("to_q", "to_k", "to_v", "to_out.0", "norm_", "ff"),
                "txt": ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "norm_added_", "ff_context")}.items():
            out[f"{to}{stream}_attn.qkv.weight"] = torch.cat([state[f"{at}attn.{n}.weight"] for n in (q, k, v)])
            out[f"{to}{stream}_attn.proj.weight"] = state[f"{at}attn.{o}.weight"]
            for name in ("query", "key"):
                out[f"{to}{stream}_attn.norm.{name}_norm.scale"] = state[f"{at}attn.{norm}{name[0]}.weight"]
            out[f"{to}{stream}_mlp.0.weight"] = state[f"{at}{ff}.linear_in.weight"]
            out[f"{to}{stream}_mlp.2.weight"] = state[f"{at}{ff}.linear_out.weight"]
    for i in range(CONFIG["num_single_layers"]):
        at, to = f"single_transformer_blocks.{i}.attn.", f"single_blocks.{i}."
        out[to + "linear1.weight"] = state[at + "to_qkv_mlp_proj.weight"]
        out[to + "linear2.weight"] = state[at + "to_out.weight"]
        for name in ("query", "key"):
            out[f"{to}norm.{name}_norm.scale"] = state[f"{at}norm_{name[0]}.weight"]
    return {k: v.detach().clone().contiguous() for k, v in out.items()}


def sigmas_of(tokens, steps):
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(steps, sigmas=np.linspace(1.0, 1 / steps, steps), mu=compute_empirical_mu(tokens, steps))
    return scheduler


def save_lora(model, folder, pipeline=Flux2KleinPipeline):
    from diffusers.loaders.lora_base import _pack_dict_with_prefix  # noqa: F401  (what save_lora_weights goes by)

    config = {k: v for k, v in model.peft_config["default"].to_dict().items() if k in ("r", "lora_alpha", "target_modules")}
    config["target_modules"] = sorted(config["target_modules"])
    pipeline.save_lora_weights(folder, transformer_lora_layers=get_peft_model_state_dict(model),
                               transformer_lora_adapter_metadata=config)


def make(out):
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(22)
    model = randomise(Flux2Transformer2DModel(**CONFIG))
    model.save_pretrained(out / "transformer")
    save_file(bfl_names(model.state_dict()), out / "single.safetensors")
    case = Case()
    tensors = {f"text.{i}": t for i, t in enumerate(case.text)}
    tensors |= {"empty": case.empty, "latents": case.latents, "sigmas": case.sigmas, "noise": case.noise}
    with torch.no_grad():
        tensors["pred"] = forward(model, case.mixed(), case.sigmas, case.text)
        scheduler = sigmas_of(SIDE * SIDE, DRAW_STEPS)
        z = tensors["start"] = case.noise[:2]
        for i, t in enumerate(scheduler.timesteps):
            sigma = (t / 1000).expand(2)
            v, none = forward(model, z, sigma, case.text[:2]), forward(model, z, sigma, case.empty[None].expand(2, -1, -1))
            z = scheduler.step(none + GUIDANCE * (v - none), t, z, return_dict=False)[0]
            tensors[f"step.{i}"] = z
    loss = case.loss(model)
    loss.backward()
    tensors |= {f"grad.{n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    expected = {"made_by": {"torch": torch.__version__, "diffusers": diffusers.__version__, "peft": peft.__version__},
                "optimizer": OPTIMIZER, "loss": float(loss.detach()), "guidance": GUIDANCE, "steps": DRAW_STEPS,
                "sigmas": [{"tokens": n, "steps": s, "values": [float(v) for v in sigmas_of(n, s).sigmas]}
                           for n, s in ((16, 5), (1024, 4), (1024, 50), (4096, 20), (4400, 8))]}
    model.zero_grad()
    model.requires_grad_(False)
    model.add_adapter(peft.LoraConfig(r=3, lora_alpha=6, target_modules=TARGETS, init_lora_weights="gaussian"))
    save_lora(model, out / "lora_initial")
    losses, norms = train(model, case)
    save_lora(model, out / "lora_trained")
    expected["lora"] = {"rank": 3, "alpha": 6, "losses": losses, "grad_norms": norms}
    with torch.no_grad():
        tensors["lora.pred"] = forward(model, case.mixed(), case.sigmas, case.text)
    write(out, tensors, expected)
    finish(out)


if __name__ == "__main__":
    run(__doc__, make, ROOT)
