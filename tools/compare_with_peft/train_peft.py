#!/usr/bin/env python3
"""Fine-tuning by PyTorch, with LoRA by PEFT, as its competent user would write it: the peer that compare.py measures.

    train_peft.py --model HF_FOLDER --tokens TOKENS.json --out REPORT.json

Records sorted by length into batches padded to their longest, batches shuffled; attention by PyTorch's fused kernel;
AdamW, its rate after a warm-up of 3 % a cosine's, as qa train's; loss on the answers by transformers' own `labels`, which makes logits for all positions. bf16 is autocast over
float32 weights where all are trained, and over bfloat16 ones where LoRA leaves them frozen. No llama.cpp or gguf is
imported here, so that the process holds what training needs and nothing else."""
import argparse
import json
import math
import random
import resource
import sys
import time

try:
    import peft
    import torch
    import transformers
except ImportError as error:
    sys.exit(f"train_peft.py: {error}\n  hint: pip install -r tools/requirements-reference.txt")


def batches_by_length(records, most_tokens, seed):
    """Batches of at most `most_tokens`, padding counted, of records of like length; in shuffled order."""
    order = sorted(range(len(records)), key=lambda i: len(records[i]["tokens"]))
    batches, batch = [], []
    for i in order:
        longest = len(records[i]["tokens"])  # ascending: this one is the longest so far
        if batch and longest * (len(batch) + 1) > most_tokens:
            batches.append(batch)
            batch = []
        batch.append(i)
    batches.append(batch)
    random.Random(seed).shuffle(batches)
    return batches


def collate(records, pad):
    longest = max(len(r["tokens"]) for r in records)
    ids, mask, labels = [], [], []
    for r in records:
        n = longest - len(r["tokens"])
        ids.append(r["tokens"] + [pad] * n)
        mask.append([1] * len(r["tokens"]) + [0] * n)
        labels.append([t if m else -100 for t, m in zip(r["tokens"], r["targets"])] + [-100] * n)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "labels": torch.tensor(labels)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3, help="steps before the clock starts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-tokens", type=int, default=512)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--alpha", type=float, default=32)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--save", help="a folder for the adapter")
    args = parser.parse_args()
    cuda, bf16 = args.device == "cuda", args.dtype == "bf16"
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    transformers.utils.logging.disable_progress_bar()
    records = json.load(open(args.tokens))["records"]

    model = transformers.AutoModelForCausalLM.from_pretrained(
        args.model, dtype=torch.bfloat16 if bf16 and not args.full else torch.float32, attn_implementation="sdpa")
    model.to(args.device)
    model.config.use_cache = False
    if not args.full:
        model = peft.get_peft_model(model, peft.LoraConfig(r=args.rank, lora_alpha=args.alpha, target_modules="all-linear",
                                                           lora_dropout=0.0, task_type="CAUSAL_LM"))
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr, weight_decay=0.0, fused=cuda)
    steps = args.warmup + args.steps
    rises = math.ceil(0.03 * steps)

    def rate(step):
        if step < rises:
            return (step + 1) / (rises + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - rises) / max(1, steps - rises)))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    batches = batches_by_length(records, args.batch_tokens, args.seed)
    pad = model.config.pad_token_id or 0

    losses, seconds, tokens, targets, padded = [], [], [], [], []
    for step in range(steps):
        batch = [records[i] for i in batches[step % len(batches)]]
        start = time.perf_counter()
        inputs = {name: x.to(args.device) for name, x in collate(batch, pad).items()}
        with torch.autocast("cuda", torch.bfloat16, enabled=cuda and bf16):
            loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))  # waits for the GPU
        seconds.append(time.perf_counter() - start)
        tokens.append(sum(len(r["tokens"]) for r in batch))
        targets.append(sum(sum(r["targets"]) for r in batch))
        padded.append(inputs["input_ids"].numel())
        print(f"peft: step {step + 1}, loss {losses[-1]:.4f}, {tokens[-1] / seconds[-1]:.1f} tokens/s", flush=True)
    w = args.warmup
    report = {
        "tokens_per_second": sum(tokens[w:]) / sum(seconds[w:]), "peak_memory_bytes":
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "loaded_memory_bytes": loaded,
        "padding": 1 - sum(tokens[w:]) / sum(padded[w:]), "tokens_per_step": sum(tokens) / len(tokens),
        "targets_per_step": sum(targets) / len(targets), "losses": losses, "step_seconds": seconds,
        "trainable": sum(p.numel() for p in trained), "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}}
    json.dump(report, open(args.out, "w"))
    if args.save:
        model.save_pretrained(args.save)


if __name__ == "__main__":
    main()
