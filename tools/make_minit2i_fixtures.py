#!/usr/bin/env python3
"""Makes tests/data/minit2i/: a tiny random MiniT2I pipeline and what its authors' PyTorch code computes with it.

    make_minit2i_fixtures.py REFERENCE            in place
    make_minit2i_fixtures.py REFERENCE --check    remakes it in a temporary folder and compares, within 2e-5

REFERENCE is a checkout of Hope7Happiness/minit2i-torch (or its copy Bili-Sakura/MiniT2I-diffusers, as at 8b8e3fb): its src/ is
imported, nothing of it is copied. The encoder is tests/data/t5/flan (make_t5_fixtures.py). The folder holds
    model_index.json, scheduler/, text_encoder/, tokenizer/, transformer/    as pipeline.save_pretrained writes them
    lora_initial/, lora_trained/       PEFT folders as lora/train_lora.py writes them, of its own targets
    expected.json                      captions, losses and norms of the ten steps, settings
    expected.safetensors               caption.N (tokens, W) the encoder's states; pictures, times, noise, latents (N, 3, S, S)
                                       pred; grad.<parameter>; lora.pred after ten steps
                                       step.K: both pictures after step K + 1 of model.sample; drawn: the picture in bytes

Traps these fixtures are made to catch:
 - Names lie below model.net.; t_embedder and pooled_embedder are in the files, adapters' parts for them too, and never used.
 - heads * head_dim is 24, hidden_size 20; a head of 12 has three rotary pairs an axis; the MLP is of int(20 * 2.7) up to 56.
 - The noise's scale is 2, whatever the side; transformer/config.json says so here (noise_scale), published ones do not.
 - Times are uniform, as the model's own sampler has them; the pipeline's scheduler goes to 0.999 evenly, then to 1.
 - Captions are filled up to 8 tokens by mask_token, and a longer one is cut with its </s>; the last of batch is dropped.
"""
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import peft
import torch
import transformers
from fixture_files import finish, run, write
from torch import nn

ROOT = Path(__file__).resolve().parent.parent / "tests" / "data" / "minit2i"
ENCODER = ROOT.parent / "t5" / "flan"
CONFIG = {"image_size": 16, "patch_size": 4, "txt_input_size": 24, "hidden_size": 20, "txt_hidden_size": 20, "cond_vec_size": 20,
          "depth_double": 2, "txt_preamble_depth": 1, "num_heads": 2, "head_dim": 12, "mlp_ratio": 2.7, "pca_channels": 6,
          "prompt_length": 8, "n_T": 5}
CAPTIONS = ["red apple", "a red dog and a green apple on a table", "a dog, in oil", ""]  # the last is dropped
TIMES = [0.15, 0.55, 0.97, 0.4]
STEPS, EPS, GUIDANCE, NOISE = 10, 0.05, 2.5, 2.0
OPTIMIZER = {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01, "clip_norm": 1.0}
TARGETS = ("qkv", "attn_proj", "w1", "w2", "w3", "txt_embedder", "pooled_embedder")  # lora/train_lora.py's


def randomise(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.uniform_(0.5, 1.6)
            elif p.dim() == 1:
                p.normal_(0, 0.2)
            elif "mask_token" in name:
                p.normal_(0, 1)
            else:
                p.normal_(0, 1.2 / p[0].numel() ** 0.5)
    return model.eval()


class Case:
    def __init__(self, model, tokenizer, encoder):
        self.model = model
        tokens = tokenizer(CAPTIONS, return_tensors="pt", padding="max_length", truncation=True, max_length=CONFIG["prompt_length"])
        with torch.no_grad():
            self.text = encoder(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        self.mask = tokens.attention_mask.float()
        self.mask[-1] = 0
        n, side = len(CAPTIONS), CONFIG["image_size"]
        self.pictures, self.noise = torch.rand(n, 3, side, side) * 2 - 1, torch.randn(n, 3, side, side)
        self.times = torch.tensor(TIMES)

    def mixed(self):
        t = self.times[:, None, None, None]
        return t * self.pictures + (1 - t) * NOISE * self.noise

    def loss(self, model, turn=0):
        """lora/train_lora.py's with loss_type velocity, of captions turned by so many places."""
        z, t = self.mixed(), self.times
        room = torch.clamp(1 - t[:, None, None, None], min=EPS)
        text, mask = self.text.roll(turn, 0), self.mask.roll(turn, 0)
        pred = (model(z, t, text, mask) - z) / room
        return nn.functional.mse_loss(pred, (self.pictures - z) / room)


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
        norms.append(float(nn.utils.clip_grad_norm_([p for p in trained if p.grad is not None], OPTIMIZER["clip_norm"])))
        adamw.step()
    return losses, norms


def drawn(model, case, seed, recorded):
    """The model's own sampler, over uniform times; recorded: what it goes on from at each step."""
    velocity = model.model.cfg_velocity
    model.model.cfg_velocity = lambda x, *rest: recorded.append(x) or velocity(x, *rest)
    x = model.sample(case.text[:2], case.mask[:2], cfg_scale=GUIDANCE, generator=torch.Generator().manual_seed(seed))
    del model.model.cfg_velocity
    recorded.append(x)
    return (x.clamp(-1, 1) * 127.5 + 128.0).clamp(0, 255).to(torch.uint8)  # as the pipeline does


def make(reference, out):
    sys.path.insert(0, str(reference / "src"))
    from diffusers.models.transformers.transformer_minit2i import MiniT2IMMJiTModel
    from diffusers.pipelines.minit2i.pipeline_minit2i import MiniT2ITextToImagePipeline

    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(19)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(ENCODER / "tokenizer.json"), eos_token="</s>",
                                                     pad_token="<pad>", unk_token="<unk>")
    encoder = transformers.T5EncoderModel.from_pretrained(ENCODER).eval()
    model = randomise(MiniT2IMMJiTModel(**CONFIG))
    case = Case(model, tokenizer, encoder)
    tensors = {f"caption.{i}": case.text[i, :int(case.mask[i].sum())] for i in range(len(CAPTIONS) - 1)}
    tensors |= {"pictures": case.pictures, "times": case.times, "noise": case.noise}

    recorded = []
    picture = drawn(model, case, 7, recorded)
    pipe = MiniT2ITextToImagePipeline(transformer=model, scheduler=None, tokenizer=tokenizer, text_encoder=encoder)
    pipe.save_pretrained(out)
    config = json.loads((out / "transformer" / "config.json").read_text())
    (out / "transformer" / "config.json").write_text(json.dumps(config | {"noise_scale": NOISE}, indent=2) + "\n")
    tensors |= {"latents": recorded[0], "drawn": picture} | {f"step.{i}": x for i, x in enumerate(recorded[1:])}

    with torch.no_grad():
        tensors["pred"] = model(case.mixed(), case.times, case.text, case.mask)
    loss = case.loss(model)
    loss.backward()
    tensors |= {f"grad.{n.removeprefix('model.net.')}": p.grad for n, p in model.named_parameters()
                if p.grad is not None and "t_embedder." not in n.replace("txt_embedder.", "") and "pooled" not in n}
    model.zero_grad()
    expected = {"made_by": {"torch": torch.__version__, "peft": peft.__version__, "transformers": transformers.__version__},
                "optimizer": OPTIMIZER, "eps": EPS, "guidance": GUIDANCE, "noise_scale": NOISE, "captions": CAPTIONS,
                "loss": float(loss.detach())}

    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and any(t in n for t in TARGETS)]
    lora = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, lora_dropout=0.0, bias="none", target_modules=names))
    lora.save_pretrained(out / "lora_initial")
    losses, norms = train(lora, case)
    lora.save_pretrained(out / "lora_trained")
    expected["lora"] = {"rank": 4, "alpha": 6, "losses": losses, "grad_norms": norms}
    with torch.no_grad():
        tensors["lora.pred"] = lora(case.mixed(), case.times, case.text, case.mask)
    write(out, tensors, expected)
    finish(out)


if __name__ == "__main__":
    run(__doc__, lambda out, args: make(args.reference, out), ROOT,
        arguments=lambda parser: parser.add_argument("reference", type=Path, help="checkout of the authors' code"))
