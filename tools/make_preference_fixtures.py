#!/usr/bin/env python3
"""Makes tests/data/preferences/: what TRL's DPOTrainer computes on the tiny Llama of tests/data/models with peft's LoRA.

    make_preference_fixtures.py            in place
    make_preference_fixtures.py --check    remakes them in a temporary folder and compares, within 2e-5

    llama_tiny.json           pairs as ids (both sides with their question), beta; of adapter_trained beside the base: log
                              p of each answer, loss, rewards, accuracy, margin, the norm of the gradients; of ten steps
                              from adapter_initial, all pairs in each: losses, norms; and the same of label smoothing
                              (cDPO) and of the added mean -log p of chosen answers (RPO), by the formula in torch: TRL
                              1.16 has neither in this form
    llama_tiny.safetensors    grad.<parameter> of adapter_trained, and final.<parameter> after the ten steps

The reference is the base model, given as ref_model. TRL pads; sums are over an answer's tokens, its end among them.
Needs tools/requirements-reference.txt, with trl and datasets as it names them.
"""
import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from make_model_fixtures import OPTIMIZER, STEPS, lora_parameters, save_tensors, seeded, write_json
from reference_gguf import need, torch, transformers

peft, trl, datasets, tokenizers, safetensors_torch = need("peft", "trl", "datasets", "tokenizers", "safetensors.torch")

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
NAME, BETA, SMOOTHING, NLL = "llama_tiny", 0.1, 0.1, 0.5
LENGTHS = ((5, 4, 9), (3, 8, 2), (11, 1, 6), (7, 5, 5))  # question, chosen, rejected


def draw_pairs(vocab):
    def some(n):
        return torch.randint(3, vocab, (n,)).tolist()
    return [{"prompt_ids": some(q), "chosen_ids": some(c), "rejected_ids": some(r)} for q, c, r in LENGTHS]


def base():
    kind = transformers.AutoModelForCausalLM
    return kind.from_pretrained(DATA / "models" / NAME, dtype=torch.float32, attn_implementation="eager").eval()


def tuned(adapter):
    return peft.PeftModel.from_pretrained(base(), DATA / "models" / NAME / adapter, is_trainable=True).eval()


def tokenizer(vocab):
    words = {"<pad>": 0} | {f"w{i}": i for i in range(1, vocab)}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<pad>")), pad_token="<pad>",
        eos_token="w2")


class TokenizedTrainer(trl.DPOTrainer):
    def _prepare_dataset(self, dataset, *_):  # TRL's own would tokenize texts
        return dataset


def trainer(model, pairs, scratch, optimizer=None):
    config = trl.DPOConfig(output_dir=scratch, beta=BETA, per_device_train_batch_size=len(pairs), max_steps=STEPS,
                           max_grad_norm=OPTIMIZER["clip_norm"], lr_scheduler_type="constant", logging_steps=1,
                           save_strategy="no", report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False,
                           max_length=None, disable_dropout=True)
    constant = optimizer and torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    return TokenizedTrainer(model=model, ref_model=base(), args=config, train_dataset=datasets.Dataset.from_list(pairs),
                            processing_class=tokenizer(model.config.vocab_size), optimizers=(optimizer, constant))


def log_ps(model, pairs):
    """-> (P, 2), each answer by itself, without padding: what TRL's sums are held against."""
    rows = []
    for pair in pairs:
        for side in ("chosen_ids", "rejected_ids"):
            ids = torch.tensor([pair["prompt_ids"] + pair[side]])
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
            rows.append(logits.gather(1, ids[0, 1:, None])[len(pair["prompt_ids"]) - 1:].sum())
    return torch.stack(rows).view(-1, 2)


def by_formula(model, reference, pairs, smoothing, nll):
    own = log_ps(model, pairs)
    rewards = BETA * (own - reference)
    d = rewards[:, 0] - rewards[:, 1]
    sigmoid = torch.nn.functional.logsigmoid
    lengths = torch.tensor([len(p["chosen_ids"]) for p in pairs])
    loss = (-(1 - smoothing) * sigmoid(d) - smoothing * sigmoid(-d) - nll * own[:, 0] / lengths).mean()
    return loss, rewards


def norm_of(named):
    return float(torch.stack([p.grad.norm() for _, p in named]).norm())


def make(out):
    out.mkdir(parents=True, exist_ok=True)
    seeded("preferences")
    pairs = draw_pairs(base().config.vocab_size)
    tensors = {}
    with tempfile.TemporaryDirectory() as scratch:
        with torch.no_grad():
            reference = log_ps(base(), pairs)
        model = tuned("adapter_trained")
        one = trainer(model, pairs, scratch)
        inputs = one.data_collator([one.train_dataset[i] for i in range(len(pairs))])
        loss = one._compute_loss(model, inputs, return_outputs=False)
        loss.backward()
        named = lora_parameters(model)
        tensors |= {f"grad.{n}": p.grad.clone() for n, p in named}
        metrics = {k: v[0] for k, v in one._metrics["eval" if not model.training else "train"].items()}
        expected = {"made_by": {m.__name__: m.__version__ for m in (trl, peft, transformers, torch, datasets)},
                    "beta": BETA, "pairs": [{"question": len(p["prompt_ids"]), "chosen": p["prompt_ids"] + p["chosen_ids"],
                                             "rejected": p["prompt_ids"] + p["rejected_ids"]} for p in pairs]}
        ours, rewards = by_formula(model, reference, pairs, 0, 0)
        assert abs(float(ours) - float(loss)) < 1e-5, "our reading of the formula is not TRL's"
        expected["tuned"] = {"loss": float(loss), "rewards": rewards.tolist(), "reference": reference.tolist(),
                             "accuracy": float(metrics["rewards/accuracies"]), "margin": float(metrics["rewards/margins"]),
                             "grad_norm": norm_of(named)}
        for name, smoothing, nll in (("smoothed", SMOOTHING, 0), ("with_nll", 0, NLL)):
            model.zero_grad()
            other, _ = by_formula(model, reference, pairs, smoothing, nll)
            other.backward()
            expected[name] = {"label_smoothing": smoothing, "nll": nll, "loss": float(other), "grad_norm": norm_of(named)}

        model = tuned("adapter_initial")
        named = lora_parameters(model)
        adamw = torch.optim.AdamW([p for _, p in named], lr=OPTIMIZER["lr"], betas=OPTIMIZER["betas"],
                                  eps=OPTIMIZER["eps"], weight_decay=OPTIMIZER["weight_decay"], foreach=False)
        run = trainer(model, pairs, scratch, adamw)
        run.train()
        steps = [row for row in run.state.log_history if "loss" in row and "grad_norm" in row]
        assert len(steps) == STEPS
        with torch.no_grad():
            last, rewards = by_formula(model.eval(), reference, pairs, 0, 0)
        expected["training"] = {"optimizer": OPTIMIZER, "losses": [float(r["loss"]) for r in steps],
                                "grad_norms": [float(r["grad_norm"]) for r in steps], "last_loss": float(last),
                                "last_rewards": rewards.tolist()}
        tensors |= {f"final.{n}": p.detach().clone() for n, p in named}
    write_json(out / f"{NAME}.json", expected)
    save_tensors(tensors, out / f"{NAME}.safetensors")


def numbers(value):
    if isinstance(value, dict):
        return [n for key, v in value.items() if key != "made_by" for n in numbers(v)]
    return [n for v in value for n in numbers(v)] if isinstance(value, list) else [value]


def check():
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch))
        worst = 0.0
        then, now = (json.loads((folder / f"{NAME}.json").read_text()) for folder in (DATA / "preferences", Path(scratch)))
        for a, b in zip(numbers(then), numbers(now), strict=True):
            worst = max(worst, abs(a - b) if isinstance(a, float) else float(a != b))
        load = safetensors_torch.load_file
        then, now = (load(folder / f"{NAME}.safetensors") for folder in (DATA / "preferences", Path(scratch)))
        for key in then.keys() | now.keys():
            worst = max(worst, float((then[key] - now[key]).abs().max()))
    print(f"largest difference {worst:.2g}")
    return worst > 2e-5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="remake and compare with what is committed")
    if parser.parse_args().check:
        sys.exit(check())
    make(DATA / "preferences")


if __name__ == "__main__":
    main()
