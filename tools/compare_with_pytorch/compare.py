#!/usr/bin/env python3
"""Trains the same base on the same pictures by ftlib and by PyTorch, one after the other, and prints a table: pictures
per second, peak resident memory, the loss at the end; for full fine-tuning and for LoRA.

    tools/compare_with_pytorch/run --base examples/image_style/base --data DATA --style "painterly style"

DATA is what `image_style prepare` made. Both run without an average of weights, which PyTorch has none of. Memory is
what the kernel says of each process (wait4's ru_maxrss)."""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def run(command, log, threads):
    """-> the child's peak resident bytes; its output goes to `log`."""
    with open(log, "w") as out:
        child = subprocess.Popen([str(c) for c in command], stdout=out, stderr=subprocess.STDOUT,
                                 env=os.environ | {"OMP_NUM_THREADS": str(threads)})
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit("".join(Path(log).read_text().splitlines(True)[-15:]) +
                 f"compare_with_pytorch: '{' '.join(str(c) for c in command)}' ended with status {child.returncode}")
    return usage.ru_maxrss * 1024


def ours(args, lora, out):
    command = [args.image_style, "train", "--base", args.base, "--data", args.data, "--style", args.style, "--out", out,
               "--text-model", args.text_model, "--steps", args.steps, "--batch", args.batch, "--threads", args.threads,
               "--lr", args.lr, "--schedule", "constant", "--warmup", 0, "--ema", 0, "--samples", 0, "--evaluate-every", 10 * args.steps]
    command += ["--words", args.style]  # as the peer has it, which adapts all linear layers too
    peak = run(command + (["--lora-rank", args.rank, "--targets", "all"] if lora else ["--full"]), f"{out}.log", args.threads)
    report = json.loads((out / "training.json").read_text())
    losses = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return report["tokens_per_second"], peak, [row["loss"] for row in losses if "loss" in row]


def theirs(args, lora, out):
    command = [sys.executable, HERE / "train_pytorch.py", "--base", args.base, "--data", args.data, "--style", args.style,
               "--out", f"{out}.json", "--lr", args.lr, "--steps", args.steps, "--batch", args.batch, "--threads", args.threads]
    peak = run(command + (["--lora", "--rank", args.rank] if lora else []), f"{out}.log", args.threads)
    report = json.loads(Path(f"{out}.json").read_text())
    return report["pictures_per_second"], peak, report["losses"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=ROOT / "examples/image_style/base")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--style", required=True)
    parser.add_argument("--image-style", type=Path, default=ROOT / "build/examples/image_style/image_style")
    parser.add_argument("--text-model", type=Path, default=ROOT / "build/models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--work", type=Path, default=ROOT / "build/compare_with_pytorch")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="the two take turns; the medians count")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)

    print(f"{platform.processor() or platform.machine()}, {args.threads} threads, batches of {args.batch}, "
          f"{args.steps} steps, medians of {args.rounds} rounds\n")
    print("| | pictures/s | peak memory | mean loss of the last 20 steps |\n|---|---|---|---|")
    for lora in (False, True):
        results = {"ftlib": [], "PyTorch": []}
        for i in range(args.rounds):
            results["ftlib"].append(ours(args, lora, args.work / f"ours-{i}"))
            results["PyTorch"].append(theirs(args, lora, args.work / f"theirs-{i}"))
        speed = {name: statistics.median(r[0] for r in rounds) for name, rounds in results.items()}
        memory = {name: max(r[1] for r in rounds) for name, rounds in results.items()}
        what = f"LoRA, rank {args.rank}" if lora else "all weights"
        for name, rounds in results.items():
            loss = statistics.mean(rounds[-1][2][-20:])
            print(f"| {what}, {name} | {speed[name]:.0f} | {memory[name] / 1e6:.0f} MB | {loss:.3f} |")
        print(f"| {what}, ftlib / PyTorch | {speed['ftlib'] / speed['PyTorch']:.2f} | "
              f"{memory['ftlib'] / memory['PyTorch']:.2f} | |", flush=True)


if __name__ == "__main__":
    main()
