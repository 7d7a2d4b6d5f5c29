#!/usr/bin/env python3
"""Makes tests/data/klein/: a tiny random FLUX.2-klein pipeline and what diffusers makes of words with it.

    make_klein_fixtures.py            in place
    make_klein_fixtures.py --check    remakes it in a temporary folder and compares, within 2e-5

It is as Flux2KleinPipeline.save_pretrained writes it, but for transformer/, which is tests/data/flux2/transformer
(make_flux2_fixtures.py). expected.json and expected.safetensors hold
    prompts, states.N (LENGTH, 24): states of Qwen3's layers, padding among them; states.empty: of the empty text
    start, pictures: from that noise under guidance, values in [0, 1]
    photos, latents; times (sigma), noise, loss: of one batch of training, photo N under prompt N

Traps these fixtures are made to catch:
 - Padded rows go to the transformer: they see the text, not each other, each from its own position. One text is cut.
 - States are those after the layers, side by side, before the last norm; the template's words are among the rows.
 - A dropped caption is the empty text in the template. Latents are normalised by running means of patches.
"""
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import diffusers
import torch
import transformers
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from fixture_files import finish, run, write
from make_autoencoder_fixtures import blocks, encode, randomise
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import nn

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
PROMPTS = ["red apple", "a dog, in oil, on a very large table beside a window that is open"]
LAYERS, LENGTH, SIDE, STEPS, GUIDANCE, SIGMAS = (1, 2, 3), 48, 16, 3, 4.0, [0.7, 0.2]
TEMPLATE = """{%- for message in messages -%}
  {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\\n' -}}
  {%- if enable_thinking is defined and enable_thinking is false -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}
{%- endif -%}"""


def tokenizer():
    """A token a byte, and Qwen3's control tokens."""
    made = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(t, normalized=False) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    made.add_tokens([AddedToken(t, normalized=False) for t in ("<think>", "</think>")])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = TEMPLATE
    return fast


def text_encoder(width=8):
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(
        vocab_size=261, hidden_size=width, intermediate_size=12, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, head_dim=4, max_position_embeddings=128, tie_word_embeddings=True))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:
                p.uniform_(0.5, 1.6)
            else:
                p.normal_(0, 1 if "embed" in name else 1.2 / p.shape[1] ** 0.5)
    return model.eval()


def make(out):
    torch.manual_seed(41)
    vae = randomise(AutoencoderKLFlux2(**blocks(2), block_out_channels=(4, 8), layers_per_block=1, latent_channels=1,
                                       norm_num_groups=2, sample_size=16))
    pipe = Flux2KleinPipeline(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae, text_encoder(), tokenizer(),
                              Flux2Transformer2DModel.from_pretrained(DATA / "flux2" / "transformer").eval())
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(out)
    for f in sorted((out / "transformer").iterdir()):
        f.unlink()
    (out / "transformer").rmdir()

    def states(words):
        return pipe.encode_prompt(words, max_sequence_length=LENGTH, text_encoder_out_layers=LAYERS)[0]

    with torch.no_grad():
        text = states(PROMPTS)
        tensors = {f"states.{i}": t for i, t in enumerate(text)} | {"states.empty": states("")[0]}
        start = tensors["start"] = torch.randn(2, 4, SIDE // 4, SIDE // 4)
        tensors["pictures"] = pipe(prompt=PROMPTS, height=SIDE, width=SIDE, num_inference_steps=STEPS, guidance_scale=GUIDANCE,
                                   latents=start, output_type="pt", max_sequence_length=LENGTH,
                                   text_encoder_out_layers=LAYERS).images
        photos = tensors["photos"] = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
        latents = tensors["latents"] = encode(vae, photos)
        noise, sigmas = torch.randn_like(latents), torch.tensor(SIGMAS)
        s = sigmas[:, None, None, None]
        ids = pipe._prepare_latent_ids(latents)
        said = pipe.transformer(hidden_states=pipe._pack_latents((1 - s) * latents + s * noise), encoder_hidden_states=text,
                                timestep=sigmas, img_ids=ids, txt_ids=pipe._prepare_text_ids(text), guidance=None,
                                return_dict=False)[0]
        loss = nn.functional.mse_loss(said, pipe._pack_latents(noise - latents))
        tensors |= {"sigmas": sigmas, "noise": noise}
    write(out, tensors, {"made_by": {"torch": torch.__version__, "diffusers": diffusers.__version__,
                                     "transformers": transformers.__version__},
                         "prompts": PROMPTS, "layers": LAYERS, "length": LENGTH, "steps": STEPS, "guidance": GUIDANCE,
                         "loss": float(loss)})
    finish(out)


if __name__ == "__main__":
    run(__doc__, make, DATA / "klein")
