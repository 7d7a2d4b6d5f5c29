#!/usr/bin/env python3
"""Trains the same model on the same records by ftlib and by PyTorch + PEFT, one after the other, and prints a table:
tokens per second (real ones, padding not counted), peak resident memory, loss after as many steps.

    tools/compare_with_peft/run --model SmolLM2-135M-Instruct.Q4_1.gguf --data examples/qa/data/facts.en.jsonl

    tools/compare_with_peft/run --model ... --device cuda --dtype bf16 [--full] --batch-tokens 8192 --steps 50 --warmup 10

    tools/compare_with_peft/run --model ... --data tests/data/long_answers.en.jsonl --form chat --answers --steps 120 --warmup 0

asks both adapters the records of split test, by qa evaluate, and tells how they answer.

LoRA on all linear layers (or, with --full, all weights), float32 arithmetic unless told otherwise, loss on the answers.
PyTorch gets the file's weights dequantised to float32, as a Hugging Face folder made once under --work; ftlib trains on
the GGUF file as it is. Memory is what the
kernel says of each process (wait4's ru_maxrss), reading the model included; on a GPU what nvidia-smi says is used there at
most, looked at five times a second, less what was used before. With --peak-tflops the table has the model-FLOP
utilisation: 4 FLOP a token for each frozen weight of the layers and 6 for each trained one, without attention, embedding
and head; so a little less than what is done."""
import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


# ---- our side: the one place to adapt when qa's options or reports change --------------------------------------------

def our_command(args, out):
    method = ["--full"] if args.full else ["--lora-rank", str(args.rank), "--lora-alpha", f"{args.alpha:g}"]
    # On a GPU alone: a program that was built without one does not know the option's values.
    device = ["--device", "cuda", "--dtype", args.dtype] if args.device == "cuda" else []
    # Epochs: enough for the steps, which are what ends it.
    return [str(args.qa), "train", "--model", str(args.model), "--data", str(args.data), "--out", str(out),
            *method, *device, "--form", args.form, "--epochs", "1000", "--samples", "0", "--evaluate-every", "100000", "--keep-weight", "0", "--withhold", "0", "--lr", str(args.lr),
            "--batch-tokens", str(args.batch_tokens), "--max-steps", str(args.warmup + args.steps),
            "--threads", str(args.threads), "--seed", str(args.seed), *args.qa_flags.split()]


def answers(args, adapter, report):
    """What `qa evaluate` says of an adapter, ours or PEFT's: figures of the records of split test."""
    run([args.qa, "evaluate", "--model", args.model, "--adapter", adapter, "--data", args.data, "--form", args.form, "--sure", "0",
         "--threads", args.threads, "--max-new-tokens", args.max_new_tokens, "--json", report], report.with_suffix(".log"), args.threads)
    told = json.loads(report.read_text())
    return {"base": told["base"], "tuned": told["tuned"]}


def answers_table(result):
    rows = [("records of split test", "exact match", "F1", "loss of the answers")]
    one = result["ftlib"]["answers"]
    for name, of in (("base", one["base"]), *((n, result[n]["answers"]["tuned"]) for n in ("ftlib", "PyTorch + PEFT"))):
        rows.append((name, f"{100 * of['exact_match']:.1f} %", f"{100 * of['f1']:.1f} %", f"{math.log(of['perplexity']):.4f}"))
    return "\n".join("| " + " | ".join(row) + " |" + ("\n| --- | ---: | ---: | ---: |" if n == 0 else "") for n, row in enumerate(rows))


def steady_rate(rows, warmup):
    """Tokens a second after the warm-up, of metrics.jsonl, whose own rate is of all steps so far."""
    tokens = seconds = 0
    at = []
    for row in rows:
        tokens += row["tokens"]
        at.append((tokens, tokens / row["tokens_per_second"]))
    (from_tokens, from_seconds), (to_tokens, to_seconds) = at[warmup - 1], at[-1]
    return (to_tokens - from_tokens) / (to_seconds - from_seconds)


def our_report(out, peak, args):
    report = json.loads((out / "training.json").read_text())
    if args.device == "cuda":  # where the first steps load kernels and choose algorithms
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines() if line.strip()]
        report["tokens_per_second"] = steady_rate([r for r in rows if "tokens_per_second" in r], args.warmup)
    losses = report.get("losses", [])
    if not losses and (out / "metrics.jsonl").is_file():  # one JSON object a line, a loss in those of training steps
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines() if line.strip()]
        losses = [r["loss"] for r in rows if "loss" in r]
    return {"tokens_per_second": report["tokens_per_second"], "peak_memory_bytes": peak,
            "reported_peak_memory_bytes": report.get("peak_memory_bytes"), "losses": losses}


# ---- running ---------------------------------------------------------------------------------------------------------

def stop(message, hint):
    sys.exit(f"compare_with_peft: {message}\n  hint: {hint}")


def gpu_memory():
    """Bytes in use on the first GPU."""
    text = subprocess.run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"], capture_output=True,
                          text=True).stdout.split()
    return int(text[0]) << 20 if text and text[0].isdigit() else 0


def run(command, log, threads, device="cpu"):
    """-> the child's peak resident bytes (on a GPU: those of the GPU) and its seconds; its output goes to `log`."""
    before, most, done = gpu_memory() if device == "cuda" else 0, [0], threading.Event()

    def watch():
        while not done.wait(0.2):
            most[0] = max(most[0], gpu_memory())
    if device == "cuda":
        threading.Thread(target=watch, daemon=True).start()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    start = time.perf_counter()
    with open(log, "w") as out:
        child = subprocess.Popen([str(c) for c in command], stdout=out, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    done.set()
    if child.returncode != 0:
        print("".join(Path(log).read_text().splitlines(True)[-15:]), file=sys.stderr)
        stop(f"'{' '.join(str(c) for c in command)}' ended with status {child.returncode}", f"its output is in {log}")
    if device == "cuda":
        return max(0, most[0] - before), time.perf_counter() - start
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), time.perf_counter() - start


def prepare(args):
    """In a process of its own: the model's dequantised folder, and the records as tokens."""
    sys.path.insert(0, str(HERE.parent))
    from reference_gguf import open_model, open_tokenizer
    folder = args.work / (args.model.stem + ".hf")
    if not (folder / "config.json").is_file():
        model = open_model(args.model)
        model.generation_config.pad_token_id = model.config.pad_token_id
        model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    encode = open_tokenizer(args.model)
    bos = [config["bos_token_id"]] if config["model_type"].startswith("gemma") else []
    eos = config["eos_token_id"]
    records = []
    for number, line in enumerate(args.data.read_text().splitlines(), 1):
        if not line.strip():
            continue
        record = json.loads(line)
        if record.get("split", "train") != "train":
            continue
        answers = record.get("answers") or [record.get("answer")]
        if "question" not in record or not answers[0]:
            stop(f"{args.data}:{number}: no question or no answer", "qa prepare writes such files: {\"question\", \"answer\"}")
        answer = record.get("answer") or answers[0]
        if args.form == "chat":  # ChatML, as SmolLM2's template writes it; <|im_start|> 1 and <|im_end|> 2
            turn = lambda who, text: [1] + encode(f"{who}\n{text}") + [2] + encode("\n")
            prompt = turn("system", "You are a helpful AI assistant named SmolLM, trained by Hugging Face")
            prompt += turn("user", record["question"]) + [1] + encode("assistant\n")
            ids = prompt + encode(answer) + [2]
        else:
            prompt = bos + encode(f"Q: {record['question']}\nA:")
            ids = prompt + encode(f" {answer}") + [eos]
        records.append({"tokens": ids, "targets": [int(i >= len(prompt)) for i in range(len(ids))]})
    if not records:
        stop(f"{args.data}: no record to train on", "records need split \"train\", or none")
    (args.work / "tokens.json").write_text(json.dumps({"records": records}))


def flops_per_token(args):
    """Of SmolLM2-135M's layers: 106,168,320 weights, and for LoRA its own: rank (in + out) of each linear layer."""
    if args.full:
        return 6 * 106_168_320
    return 4 * 106_168_320 + 6 * args.rank * 30 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536))


def table(result, args):
    share = args.peak_tflops and "SmolLM2-135M" in args.model.name
    rows = [("", "tokens/s", "peak memory, MB", "first loss", "last 3 losses", *(["model-FLOP utilisation"] if share else []))]
    for name in ("ftlib", "PyTorch + PEFT"):
        r = result.get(name)
        if r:
            losses = r["losses"]
            rows.append((name, f"{r['tokens_per_second']:.1f}", f"{r['peak_memory_bytes'] / 1e6:,.0f}",
                         f"{losses[0]:.3f}" if losses else "-",
                         f"{statistics.mean(losses[-3:]):.3f}" if losses else "-",
                         *([f"{flops_per_token(args) * r['tokens_per_second'] / args.peak_tflops / 1e10:.1f} %"] if share else [])))
    if "ratio" in result:
        rows.append(("ftlib / PEFT", f"{result['ratio']['tokens_per_second']:.2f} x",
                     f"{result['ratio']['peak_memory']:.2f} x", "", "", *([""] if share else [])))
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths))) + " |"
             for r in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths)) + "|")
    return "\n".join(lines)


def machine():
    model = platform.processor()
    if Path("/proc/cpuinfo").is_file():
        names = [l.split(":")[1].strip() for l in Path("/proc/cpuinfo").read_text().splitlines() if l.startswith("model name")]
        model = names[0] if names else model
    return {"cpu": model, "cores": os.cpu_count(), "load_before": os.getloadavg()[0]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--data", type=Path, default=ROOT / "examples/qa/data/facts.en.jsonl")
    parser.add_argument("--qa", type=Path, default=ROOT / "build/examples/qa/qa")
    parser.add_argument("--qa-flags", default="", help="more options for qa train, in one string")
    parser.add_argument("--form", choices=["qa", "chat"], default="qa", help="the text form PEFT trains on; the same as qa's")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="bf16: on cuda alone")
    parser.add_argument("--full", action="store_true", help="train all weights; PyTorch without PEFT")
    parser.add_argument("--peak-tflops", type=float, default=0, help="the device's, for the model-FLOP utilisation")
    parser.add_argument("--steps", type=int, default=10, help="steps that are timed (default 10)")
    parser.add_argument("--warmup", type=int, default=3, help="steps before those (default 3)")
    parser.add_argument("--rounds", type=int, default=1, help="repeat both, one after the other; medians are told (default 1)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-tokens", type=int, default=512)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--alpha", type=float, default=32)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--answers", action="store_true", help="ask both adapters the records of split test too")
    parser.add_argument("--max-new-tokens", type=int, default=96, help="of an answer, with --answers")
    parser.add_argument("--only", choices=["ftlib", "peft"], help="measure one side alone")
    parser.add_argument("--work", type=Path, default=ROOT / "build/compare_with_peft", help="what is left: logs, reports")
    parser.add_argument("--json", type=Path, help="where the result goes too (default WORK/result.json)")
    parser.add_argument("--prepare-only", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    for path, hint in ((args.model, "tools/fetch_model en fetches SmolLM2"), (args.data, "give --data FILE.jsonl")):
        if not path.is_file():
            stop(f"{path}: no such file", hint)
    if args.answers and (args.only or args.full or args.rounds > 1):
        stop("--answers with --only, --full or --rounds", "it asks one adapter of each side")
    args.work.mkdir(parents=True, exist_ok=True)
    if args.prepare_only:
        return prepare(args)
    if args.dtype == "bf16" and args.device != "cuda":
        stop("--dtype bf16 without --device cuda", "on the CPU both sides compute in f32")
    if args.device == "cpu" and os.getloadavg()[0] > 0.5 * (os.cpu_count() or 1):  # PyTorch's threads wait for each other, and fare worst
        print(f"compare_with_peft: the machine is busy (load {os.getloadavg()[0]:.1f}): these figures will not mean much",
              file=sys.stderr)
    if args.only != "peft" and not args.qa.is_file():
        stop(f"{args.qa}: no such file", "build the examples first, or give --qa PATH, or --only peft")
    if args.only != "ftlib":
        run([sys.executable, __file__, "--prepare-only", *sys.argv[1:]], args.work / "prepare.log", args.threads)

    result = {"machine": machine(), "model": args.model.name, "data": args.data.name,
              "setting": {k: getattr(args, k) for k in ("steps", "warmup", "threads", "batch_tokens", "rank", "alpha", "lr", "form",
                                                          "device", "dtype", "full")}}
    rounds = {"ftlib": [], "PyTorch + PEFT": []}
    for n in range(args.rounds):
        if args.only != "peft":
            out = args.work / f"ftlib.{n}"
            subprocess.run(["rm", "-rf", str(out)], check=True)
            peak, seconds = run(our_command(args, out), args.work / "ftlib.log", args.threads, args.device)
            rounds["ftlib"].append(our_report(out, peak, args) | {"seconds": seconds})
        if args.only != "ftlib":
            out = args.work / f"peft.{n}.json"
            peak, seconds = run(
                [sys.executable, HERE / "train_peft.py", "--model", args.work / (args.model.stem + ".hf"), "--tokens",
                 args.work / "tokens.json", "--out", out, "--steps", args.steps, "--warmup", args.warmup, "--threads",
                 args.threads, "--batch-tokens", args.batch_tokens, "--rank", args.rank, "--alpha", args.alpha, "--lr",
                 args.lr, "--seed", args.seed, "--device", args.device, "--dtype", args.dtype,
                 *(["--full"] if args.full else []),
                 *(["--save", args.work / "peft.adapter"] if args.answers else [])], args.work / "peft.log", args.threads, args.device)
            rounds["PyTorch + PEFT"].append(json.loads(out.read_text()) | {"peak_memory_bytes": peak, "seconds": seconds})
    for name, reports in rounds.items():
        if reports:
            middle = sorted(reports, key=lambda r: r["tokens_per_second"])[len(reports) // 2]
            result[name] = middle | {"rounds": [r["tokens_per_second"] for r in reports]}
    if len([r for r in rounds.values() if r]) == 2:
        ours, theirs = result["ftlib"], result["PyTorch + PEFT"]
        result["ratio"] = {"tokens_per_second": ours["tokens_per_second"] / theirs["tokens_per_second"],
                           "peak_memory": ours["peak_memory_bytes"] / max(1, theirs["peak_memory_bytes"])}
    if args.answers:
        result["ftlib"]["answers"] = answers(args, args.work / "ftlib.0/adapter", args.work / "ftlib.answers.json")
        result["PyTorch + PEFT"]["answers"] = answers(args, args.work / "peft.adapter", args.work / "peft.answers.json")
    (args.json or args.work / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    print(table(result, args))
    if args.answers:
        print("\n" + answers_table(result))
    if args.device == "cuda":
        print(f"\n{args.dtype}, {'all weights' if args.full else f'LoRA of rank {args.rank}'}; {args.steps} steps of about "
              f"{args.batch_tokens} tokens after {args.warmup} to warm up")
        return
    print(f"\n{result['machine']['cpu']}, {args.threads} threads, load {result['machine']['load_before']:.1f} before; "
          f"{args.steps} steps of about {args.batch_tokens} tokens after {args.warmup} to warm up; wanted: at least 2.00 x "
          f"the tokens/s, at most 0.33 x the memory.")


if __name__ == "__main__":
    main()
