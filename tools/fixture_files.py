"""What the scripts that make fixtures with PyTorch end with: writing, remaking in a temporary folder and comparing."""
import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

TOLERANCE = 2e-5


def write(folder, tensors, expected):
    """expected.safetensors and expected.json."""
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, folder / "expected.safetensors")
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")


def finish(folder):
    """Of what save_pretrained writes: no README, readable by all, and how large it is."""
    for f in sorted(folder.rglob("*")):
        if f.name == "README.md":
            f.unlink()
        elif f.is_file():
            f.chmod(0o644)
            print(f"{f.relative_to(folder)}: {f.stat().st_size:,} bytes")


def same(a, b):
    """JSON values, but for the versions of what made them."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a if k != "made_by")
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return abs(a - b) <= TOLERANCE * max(1, abs(a)) if isinstance(a, float) else a == b


def check(make, root, names=("expected.json",)):
    """Remakes all and returns 1 where a tensor, or a JSON file of one of these names, is not as committed."""
    wrong = []
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch))
        for new in sorted(Path(scratch).rglob("*")):
            old = root / new.relative_to(scratch)
            if new.name in names:
                wrong += [] if same(json.loads(old.read_text()), json.loads(new.read_text())) else [str(old)]
            elif new.suffix == ".safetensors":
                a, b = load_file(old), load_file(new)
                wrong += [f"{old}: {k}" for k in a.keys() | b.keys()
                          if k not in a or k not in b or not torch.allclose(a[k], b[k], rtol=TOLERANCE, atol=TOLERANCE)]
    print("\n".join(wrong) if wrong else "all as committed")
    return 1 if wrong else 0


def run(doc, make, root, names=("expected.json",), arguments=None):
    """The script: in place, or with --check. `arguments` adds its own to the parser; make(folder) or, with them,
    make(folder, args)."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if arguments:
        arguments(parser)
    parser.add_argument("--check", action="store_true", help="remake and compare with what is committed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    with_arguments = (lambda folder: make(folder, args)) if arguments else make
    if args.check:
        sys.exit(check(with_arguments, root, names))
    with_arguments(root)
