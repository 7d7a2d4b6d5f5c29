#!/usr/bin/env python3
"""Makes tests/data/adapters/: adapters on tests/data/models/llama_untied, and what peft computes with them.

    make_adapter_fixtures.py             all, in place
    make_adapter_fixtures.py --check     remakes them in a temporary folder and compares, within 2e-5

Each folder holds
    initial/, trained/       peft folders (README.md left out), before and after ten steps on the model's own batches
    expected.json            losses and gradient norms of the ten steps
    expected.safetensors     initial.logits, trained.logits (S, V) of the model's longest sequence
pissa/ and olora/ have only trained/, as peft saves it without conversion, and its logits as peft reads it again.

Traps these fixtures are made to catch:
 - DoRA: the norm is that of rows of W + s B A, a constant of the gradient; magnitudes are vectors, which do not decay.
 - rank_pattern and alpha_pattern are regular expressions from the module's beginning; alpha / sqrt(r) is each module's own.
 - modules_to_save goes by the ends of names: "norm" is every norm. Keys of its tensors have no "modules_to_save" in them.
 - lm_head is adapted where it is named, and "all-linear" leaves it out.
 - LoRA+: B's rate is 16 times A's.
 - PiSSA and OLoRA: peft takes their beginning out of the base again when it opens them, in float32; exact.logits are what
   double gives."""
import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from make_model_fixtures import (OPTIMIZER, chosen_nll, logits_of, made_by, peft, save_adapter, save_tensors,
                                 safetensors_torch, seeded, torch, transformers, write_json)

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
BASE = DATA / "models" / "llama_untied"
BASE_NAME = "tests/data/models/llama_untied"
SOME = ["q_proj", "v_proj", "up_proj", "down_proj"]

CONFIGS = {
    "dora": dict(r=4, lora_alpha=8, use_dora=True, target_modules=[*SOME, "lm_head"]),
    "patterns": dict(r=4, lora_alpha=6, use_rslora=True, target_modules=SOME,
                     rank_pattern={"q_proj": 2, "model.layers.1.mlp.up_proj": 6},
                     alpha_pattern={"v_proj": 3, r"^model\.layers\.0\..*(up|down)_proj": 9}),
    "saved": dict(r=2, lora_alpha=4, target_modules=["q_proj", "gate_proj"], modules_to_save=["norm", "lm_head"]),
    "head": dict(r=3, lora_alpha=6, target_modules=["lm_head", "o_proj"]),
    "plus": dict(r=4, lora_alpha=8, target_modules=SOME),
    "pissa": dict(r=3, lora_alpha=6, target_modules=SOME, init_lora_weights="pissa"),
    "olora": dict(r=3, lora_alpha=6, target_modules=SOME, init_lora_weights="olora"),
}


def base():
    return transformers.LlamaForCausalLM.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager").eval()


def train(model, batches, b_rate):
    """make_model_fixtures.train with another rate for lora_B."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [{"params": [p], "weight_decay": OPTIMIZER["weight_decay"] if p.dim() >= 2 else 0.0,
               "lr": OPTIMIZER["lr"] * (b_rate if ".lora_B." in n else 1)} for n, p in named]
    adamw = torch.optim.AdamW(groups, betas=OPTIMIZER["betas"], eps=OPTIMIZER["eps"], foreach=False)
    losses, norms = [], []
    for batch in batches:
        adamw.zero_grad()
        count = sum(sum(s["targets"]) for s in batch)
        loss = 0.0
        for s in batch:
            part = chosen_nll(logits_of(model, s["tokens"]), s["tokens"], s["targets"]) / count
            part.backward()
            loss += float(part.detach())
        losses.append(loss)
        norms.append(float(torch.nn.utils.clip_grad_norm_([p for _, p in named], OPTIMIZER["clip_norm"])))
        adamw.step()
    return losses, norms


def exact(kind, folder, config, tokens):
    """The logits with W - (what the kind takes out) + s B A in double: peft decomposes in float32."""
    model, r, s = base().double(), config["r"], config["lora_alpha"] / config["r"]
    tensors = safetensors_torch.load_file(folder / "adapter_model.safetensors")
    with torch.no_grad():
        for name, p in model.named_parameters():
            at = "base_model.model." + name.removesuffix(".weight")
            if at + ".lora_A.weight" not in tensors:
                continue
            if kind == "pissa":
                u, sigma, vh = torch.linalg.svd(p, full_matrices=False)
                out = u[:, :r] @ torch.diag(sigma[:r]) @ vh[:r]
            else:
                q, upper = torch.linalg.qr(p)
                out = s * q[:, :r] @ upper[:r]
            p += s * tensors[at + ".lora_B.weight"].double() @ tensors[at + ".lora_A.weight"].double() - out
        return logits_of(model, tokens).float().clone()


def make(out):
    given = json.loads((BASE / "expected.json").read_text())
    batches, tokens = given["training"]["batches"], given["sequences"][-1]["tokens"]
    for name, config in CONFIGS.items():
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        seeded("adapters/" + name)
        model = peft.get_peft_model(base(), peft.LoraConfig(lora_dropout=0.0, bias="none", task_type="CAUSAL_LM", **config))
        tensors = {}
        residual = name in ("pissa", "olora")
        if not residual:
            save_adapter(model, folder / "initial", BASE_NAME)
            with torch.no_grad():
                tensors["initial.logits"] = logits_of(model, tokens).clone()
        losses, norms = train(model, batches, 16 if name == "plus" else 1)
        save_adapter(model, folder / "trained", BASE_NAME)
        reread = peft.PeftModel.from_pretrained(base(), folder / "trained").eval()
        with torch.no_grad():
            tensors["trained.logits"] = logits_of(reread, tokens).clone()
            own = logits_of(model, tokens)
        assert torch.allclose(own, tensors["trained.logits"], atol=1e-4), f"{name}: peft does not read what it wrote"
        if residual:
            tensors["exact.logits"] = exact(name, folder / "trained", config, tokens)
            print(f"{name}: peft's float32 decomposition costs "
                  f"{float((tensors['exact.logits'] - tensors['trained.logits']).abs().max()):.1e} of the logits")
        write_json(folder / "expected.json", {"made_by": made_by(), "tokens": tokens, "losses": losses, "grad_norms": norms})
        save_tensors(tensors, folder / "expected.safetensors")
        print(f"{name}: loss {losses[0]:.4f} to {losses[-1]:.4f}")


def check():
    worst = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch))
        for file in sorted(Path(scratch).rglob("*.safetensors")):
            now = safetensors_torch.load_file(file)
            then = safetensors_torch.load_file(DATA / "adapters" / file.relative_to(scratch))
            if set(now) != set(then):
                sys.exit(f"{file.relative_to(scratch)}: other tensors")
            worst = max([worst, *(float((now[k] - then[k]).abs().max()) for k in now)])
    print(f"greatest difference {worst:.1e}")
    return int(worst > 2e-5)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="remake and compare with what is committed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return check() if args.check else make(DATA / "adapters")


if __name__ == "__main__":
    sys.exit(main())
