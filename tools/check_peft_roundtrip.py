#!/usr/bin/env python3
"""peft and transformers beside ftlib, folder by folder. Prints {"logits": [[...]]}, a row a token, or compares.

    check_peft_roundtrip.py logits --base FOLDER --adapter ADAPTER --tokens 1,5,7     an adapter that ftlib wrote
    check_peft_roundtrip.py logits --base MERGED --tokens 1,5,7                       a folder that ftlib merged
    check_peft_roundtrip.py write --base FOLDER --adapter OUT --tokens 1,5,7          one for ftlib to read: B not zero
    check_peft_roundtrip.py merge --base FOLDER --adapter ADAPTER --out MERGED --tokens 1,5,7
    check_peft_roundtrip.py folders --base FOLDER --adapter DIR
                                      each adapter in DIR that ftlib wrote, with its logits.json {"tokens", "logits"}:
                                      FTLIB_PEFT_OUT=DIR test_language --test-case="peft: ten steps*" writes such

FOLDER is a Hugging Face folder or a GGUF file. With --expect FILE (JSON of the same form, from ftlib) the greatest
difference is printed, and the exit status is 1 where it is over --tolerance."""
import argparse
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ["HF_HUB_OFFLINE"] = "1"
from reference_gguf import need, open_model, torch, transformers

peft = need("peft")


def stop(message, hint):
    print(f"check_peft_roundtrip: {message}\n  hint: {hint}", file=sys.stderr)
    sys.exit(2)


def open_base(path):
    if path.is_file() and path.suffix == ".gguf":
        return open_model(path)
    if not (path / "config.json").is_file():
        stop(f"{path}: neither a GGUF file nor a folder with config.json", "give --base the model's folder")
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    wrong = {k: sorted(map(str, v)) for k, v in info.items() if v}  # missing, unexpected, mis-shaped: none may be
    if wrong:
        stop(f"{path}: transformers does not find what it expects: {wrong}", "every tensor must be there under its own name")
    return model.eval()


def open_adapter(model, folder):
    if not (folder / "adapter_config.json").is_file():
        stop(f"{folder}: no adapter_config.json", "give --adapter the folder that save_adapter wrote")
    keys = set(need("safetensors.torch").load_file(folder / "adapter_model.safetensors"))
    adapted = peft.PeftModel.from_pretrained(model, folder)
    # Of an adapted head peft also saves the weight below, which is the base's.
    expected = {k for k in peft.get_peft_model_state_dict(adapted) if ".base_layer." not in k}
    if keys != expected:  # peft itself only warns
        stop(f"{folder}: missing {sorted(expected - keys)[:5]}, unexpected {sorted(keys - expected)[:5]}",
             "keys are base_model.model.<module path>.lora_A.weight and .lora_B.weight")
    return adapted.eval()


def check_folders(args):
    failed = 0
    folders = sorted(f.parent for f in args.adapter.glob("*/logits.json"))
    if not folders:
        stop(f"{args.adapter}: holds no folder with a logits.json", "see --help")
    for folder in folders:
        written = json.loads((folder / "logits.json").read_text())
        model = open_adapter(open_base(args.base), folder)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([written["tokens"]]), use_cache=False).logits[0]
        worst = float((torch.tensor(written["logits"]).reshape(logits.shape) - logits).abs().max())
        print(f"{folder.name}: greatest difference of logits {worst:.2e}, allowed {args.tolerance:.0e}")
        failed |= not worst <= args.tolerance
    return int(failed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["logits", "write", "merge", "folders"])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--tokens", default="", help="ids, with commas")
    parser.add_argument("--out", type=Path, help="merge: the folder to write")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--alpha", type=float, default=8)
    parser.add_argument("--rslora", action="store_true")
    parser.add_argument("--dora", action="store_true")
    parser.add_argument("--rank-pattern", type=json.loads, default={}, metavar="JSON")
    parser.add_argument("--alpha-pattern", type=json.loads, default={}, metavar="JSON")
    parser.add_argument("--modules-to-save", help="names' ends, with commas")
    parser.add_argument("--targets", default="all-linear", help="module names with commas (default all-linear)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--expect", type=Path, help="JSON with ftlib's logits")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    transformers.utils.logging.disable_progress_bar()
    if args.command == "folders":
        return check_folders(args)
    if not args.tokens:
        stop(f"{args.command} needs --tokens", "see --help")
    tokens = [int(t) for t in args.tokens.split(",")]
    if args.command in ("write", "merge") and not args.adapter:
        stop(f"{args.command} needs --adapter", "see --help")
    if args.command == "merge" and not args.out:
        stop("merge needs --out", "see --help")

    model = open_base(args.base)
    if args.command == "write":
        targets = args.targets if args.targets == "all-linear" else args.targets.split(",")
        alpha = int(args.alpha) if args.alpha == int(args.alpha) else args.alpha
        model = peft.get_peft_model(model, peft.LoraConfig(r=args.rank, lora_alpha=alpha, target_modules=targets,
                                                           use_rslora=args.rslora, use_dora=args.dora,
                                                           rank_pattern=args.rank_pattern, alpha_pattern=args.alpha_pattern,
                                                           modules_to_save=args.modules_to_save and args.modules_to_save.split(","),
                                                           task_type="CAUSAL_LM")).eval()
        with torch.no_grad():
            for name, p in model.named_parameters():
                if ".lora_B." in name:
                    p.normal_(0, 0.1)
        model.save_pretrained(args.adapter)
    elif args.adapter:
        model = open_adapter(model, args.adapter)
    if args.command == "merge":
        model = model.merge_and_unload()
        model.save_pretrained(args.out)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    if not args.expect:
        print(json.dumps({"logits": logits.tolist()}))
        return 0
    theirs = torch.tensor(json.loads(args.expect.read_text())["logits"])
    if theirs.shape != logits.shape:
        print(f"shapes differ: {args.expect} has {tuple(theirs.shape)}, transformers {tuple(logits.shape)}")
        return 1
    worst = float((theirs - logits).abs().max())
    print(f"greatest difference of logits {worst:.2e}, allowed {args.tolerance:.0e}")
    return int(not worst <= args.tolerance)


if __name__ == "__main__":
    sys.exit(main())
