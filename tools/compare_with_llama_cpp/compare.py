#!/usr/bin/env python3
"""Greedy generation from one GGUF file by llama.cpp (llama-cpp-python) and by ftlib, in turns: tokens per second of
decoding, the prompt's processing left out. Medians over the rounds, and their ratio.

    tools/compare_with_llama_cpp/run --model SmolLM2-135M-Instruct.Q4_1.gguf

Ours is build/benchmarks/bench_generate MODEL --tokens N --batch B --threads T, which prints one JSON object with
"tokens_per_second". llama.cpp is driven by its C interface token by token with the argmax taken in numpy, so that
Python's sampler does not slow it."""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))


def stop(message, hint):
    sys.exit(f"compare_with_llama_cpp: {message}\n  hint: {hint}")


def llama_cpp_rate(args):
    """In a process of its own, as ours is: prints the same JSON."""
    import importlib
    try:
        llama_cpp, np = importlib.import_module("llama_cpp"), importlib.import_module("numpy")
    except ImportError as error:
        stop(f"{error}", "pip install llama-cpp-python (tools/requirements-reference.txt); it is built from source")
    llm = llama_cpp.Llama(str(args.model), n_ctx=1024, n_threads=args.threads, n_threads_batch=args.threads, verbose=False)
    prompt = llm.tokenize(args.prompt.encode(), special=False)
    vocabulary = llm.n_vocab()

    def best():
        logits = llama_cpp.llama_get_logits_ith(llm.ctx, -1)
        return int(np.ctypeslib.as_array(logits, shape=(vocabulary,)).argmax())

    def decode(count):
        llm.reset()
        llm.eval(prompt)
        ids = [best()]
        start = time.perf_counter()
        while len(ids) < count + 1:
            llm.eval([ids[-1]])
            ids.append(best())
        return time.perf_counter() - start, ids
    decode(8)  # pages of the file are read in here
    seconds, ids = decode(args.tokens)
    print(json.dumps({"tokens_per_second": args.tokens / seconds, "ids": ids,
                      "text": llm.detokenize(ids).decode(errors="replace"), "version": llama_cpp.__version__,
                      "system": llama_cpp.llama_print_system_info().decode()}))


def run(command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode != 0:
        stop(f"'{' '.join(str(c) for c in command)}' ended with status {done.returncode}", done.stderr.strip()[-800:] or "no output")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--bench", type=Path, default=ROOT / "build/benchmarks/bench_generate")
    parser.add_argument("--bench-flags", default="", help="more options for bench_generate, in one string")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64, help="prompts in ours's second figure (default 64)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", default="Q: What is the highest mountain on Earth?\nA:")
    parser.add_argument("--only", choices=["ftlib", "llama.cpp"], help="measure one side alone")
    parser.add_argument("--json", type=Path, help="where the result goes too")
    parser.add_argument("--llama-cpp-child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.model.is_file():
        stop(f"{args.model}: no such file", "tools/fetch_model en fetches SmolLM2")
    if args.llama_cpp_child:
        return llama_cpp_rate(args)
    if args.only != "llama.cpp" and not args.bench.is_file():
        stop(f"{args.bench}: no such file", "build the benchmarks first, or give --bench PATH, or --only llama.cpp")
    if os.getloadavg()[0] > 0.5 * (os.cpu_count() or 1):
        print(f"compare_with_llama_cpp: the machine is busy (load {os.getloadavg()[0]:.1f}): these figures, ratios too, will not mean much",
              file=sys.stderr)
    ours = [args.bench, args.model, "--tokens", args.tokens, "--threads", args.threads, *args.bench_flags.split()]
    sides = {"llama.cpp": [sys.executable, __file__, "--llama-cpp-child", "--model", args.model, "--tokens", args.tokens,
                           "--threads", args.threads, "--prompt", args.prompt],
             "ftlib, 1 sequence": [*ours, "--batch", 1], f"ftlib, {args.batch} sequences": [*ours, "--batch", args.batch]}
    sides = {k: v for k, v in sides.items() if args.only is None or k.startswith(args.only)}
    rates, last = {name: [] for name in sides}, {}
    for n in range(args.rounds):  # in turns, so that a noisy minute meets all of them
        for name, command in sides.items():
            last[name] = run(command)
            rates[name].append(last[name]["tokens_per_second"])
            print(f"round {n + 1}: {name}: {rates[name][-1]:.1f} tokens/s", file=sys.stderr, flush=True)
    medians = {name: statistics.median(r) for name, r in rates.items()}
    result = {"model": args.model.name, "tokens": args.tokens, "threads": args.threads, "rounds": rates, "median": medians,
              "load": os.getloadavg()[0]}
    if "llama.cpp" in medians:
        result["llama_cpp"] = {k: last["llama.cpp"][k] for k in ("version", "system", "text")}
        result["ratio"] = {name: m / medians["llama.cpp"] for name, m in medians.items() if name != "llama.cpp"}
    print(f"| {args.model.name}, {args.threads} threads, {args.tokens} new tokens | tokens/s (median of {args.rounds}) "
          f"| least to most | of llama.cpp |\n|---|---:|---:|---:|")
    for name, m in medians.items():
        share = f"{100 * m / medians['llama.cpp']:.0f} %" if "llama.cpp" in medians else "-"
        print(f"| {name} | {m:.1f} | {min(rates[name]):.1f} to {max(rates[name]):.1f} | {share} |")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
