#!/usr/bin/env python3
"""build/examples/image_style/image_style from pictures to a drawing, on a tiny model: prepare, pretrain, train,
finish, draw, what a killed run comes to, and what wrong input is told.

    tests/examples/image_style.py IMAGE_STYLE SOURCE_FOLDER [MPIRUN]

With the launcher of the MPI that it was built with, two ranks of MPI train too, and end with the bytes of one.
"""
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib

PROGRAM, SOURCE, MPIRUN = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "black": (20, 20, 20)}


def png(side, pixel):
    """A PNG file of side x side pixels pixel(x, y) -> (r, g, b)."""
    rows = b"".join(b"\0" + b"".join(bytes(pixel(x, y)) for x in range(side)) for y in range(side))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def make_pictures(folder):
    """Squares and bars of four colours at three places, on white."""
    folder.mkdir()
    for name, colour in COLOURS.items():
        for shape, wide in (("square", 16), ("bar", 4)):
            for place, left in (("left", 2), ("middle", 8), ("right", 14)):
                (folder / f"{name}-{shape}-{place}.png").write_bytes(png(
                    32, lambda x, y: colour if left <= x < left + wide and 8 <= y < 24 else (255, 255, 255)))


def make_text_model(folder):
    """The tiny Llama of tests/data with a tokenizer of single bytes."""
    shutil.copytree(SOURCE / "tests/data/models/llama_tiny", folder)
    vocab = {token: i for i, token in enumerate(["<|endoftext|>", *map(chr, range(33, 127)), "\u0120"])}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "added_tokens": [{"id": 0, "content": "<|endoftext|>", "special": True}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": vocab, "merges": []}}))


def run(*arguments, expect=0):
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == expect, f"{arguments}: status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def refused(words, *arguments):
    said = run(*arguments, expect=2).strip().splitlines()
    last = said[-1] if said else ""
    assert last.startswith("image_style: ") and words in last, f"{arguments}: wanted '{words}', got {said}"


def full_disk(scratch, train):
    """A full disk: room is asked for first; what was trained is kept elsewhere, and what was there stays."""
    disk = scratch / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1400k", "tmpfs", disk],
                                           capture_output=True).returncode:
        print("image_style: no disk of its own can be mounted here; a full one is not tried")
        return
    try:
        (disk / "filler").write_bytes(bytes(330 << 10))
        refused("the disk has ", *train, "--full", "--steps", 1, "--out", disk / "full")
        assert not (disk / "full").exists()
        (disk / "filler").unlink()
        train = [*train, "--lora-rank", 2]
        run(*train, "--steps", 1, "--out", disk / "run")
        before = (disk / "run/adapter/pytorch_lora_weights.safetensors").read_bytes()

        def fill():
            with open(disk / "filler", "ab", buffering=0) as filler:
                try:
                    while True:
                        filler.write(bytes(1024))
                except OSError:
                    pass

        (disk / "run/metrics.jsonl").unlink()
        child = subprocess.Popen([PROGRAM, *map(str, train), "--steps", "100000", "--out", str(disk / "run")], text=True,
                                 env={**os.environ, "TMPDIR": str(scratch)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while child.poll() is None and not ((disk / "run/metrics.jsonl").exists() and
                                            (disk / "run/metrics.jsonl").stat().st_size):
            time.sleep(0.01)
        fill()
        said = child.communicate()[1]
        assert child.returncode == 2 and "; what was learned in " in said and " instead" in said, said
        kept = pathlib.Path(said.split("it was written to ")[1].split(" instead")[0])
        assert json.loads((kept / "style.json").read_text())["style"] == "thick style"
        assert (disk / "run/adapter/pytorch_lora_weights.safetensors").read_bytes() == before
    finally:
        subprocess.run(["umount", disk], check=True)


def ranks(scratch, train):
    """One rank and two end with the same bytes: of a style, and of all weights with their average."""
    env = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1"}
    for name, result in (("--full", "model/model.safetensors"), ("--lora-dropout=0.1", "adapter/pytorch_lora_weights.safetensors")):
        ended = []
        for n in (1, 2):
            out = scratch / f"ranks{name}{n}"
            done = subprocess.run([MPIRUN, "-n", str(n), PROGRAM, *map(str, train), name, "--steps", "8", "--batch", "7", "--micro-batch", "2",
                                   "--evaluate-every", "4", "--samples", "1", "--out", str(out)], env=env, capture_output=True, text=True)
            assert done.returncode == 0 and ("ranks: 2" in done.stdout) == (n == 2), done.stdout + done.stderr
            assert (out / "samples/step-8.png").exists()
            ended.append((out / result).read_bytes())
        assert ended[0] == ended[1], f"{name}: two ranks end with other bytes than one"


def published(scratch):
    """A MiniT2I pipeline as its authors publish it, of a tiny size: tuned, drawn from, evaluated."""
    base, styles = SOURCE / "tests/data/minit2i", scratch / "styles"
    styles.mkdir()
    rows = []
    for style, (rim, paper) in {"thick style": (3, 255), "dark style": (0, 40), "thin style": (1, 255)}.items():
        for i in range(12):
            colour, wide = list(COLOURS.values())[i % 4], 6 + i // 4 * 3
            name = f"{style[:4]}-{i}.png"
            (styles / name).write_bytes(png(16, lambda x, y: (paper,) * 3 if not (2 <= x < 2 + wide and 3 <= y < 13) else
                                            (0, 0, 0) if min(x - 2, 1 + wide - x, y - 3, 12 - y) < rim else colour))
            rows.append({"file_name": name, "text": f"{list(COLOURS)[i % 4]} thing {i // 4}", "style": style,
                         "split": "test" if i % 3 == 2 else "train"})
    (styles / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("prepare", styles, "--out", scratch / "styles-data", "--size", 16)
    more = ["--base", base, "--data", scratch / "styles-data", "--threads", 1]
    said = run("train", *more, "--style", "thick style", "--words", "thick style", "--steps", 4, "--batch", 2, "--lora-rank", 2,
               "--targets", "all", "--evaluate-every", 2, "--samples", 1, "--micro-batch", 1, "--recompute", "--out", scratch / "tuned")
    assert "where prompts say thick style" in said, said
    style = json.loads((scratch / "tuned/adapter/style.json").read_text())
    assert (scratch / "tuned/adapter" / style["base"]).resolve() == base / "transformer/diffusion_pytorch_model.safetensors"
    adapter = ["--adapter", scratch / "tuned/adapter"]
    said = run("draw", "--base", base, *adapter, "--threads", 1, "red thing", "--out", scratch / "published.png")
    assert "warning" not in said, said
    assert b"red thing, thick style; seed: 42; steps: 5; guidance: 2.5" in (scratch / "published.png").read_bytes()
    theirs = run("draw", "--base", base, "--adapter", base / "lora_trained", "--threads", 1, "red thing", "--out", scratch / "t.png")
    assert "tensors of layers that the model never uses are left out" in theirs, theirs
    run("evaluate", *more, *adapter, "--json", scratch / "published.json")
    report = json.loads((scratch / "published.json").read_text())
    assert (report["n"], report["steps"], report["guidance"]) == (4, 5, 2.5), report
    alone = scratch / "alone"
    shutil.copytree(base / "transformer", alone / "transformer")
    refused("build/models/SmolLM2-135M-Instruct.Q4_1.gguf: there is no such text model", "draw", "--base", alone, "x", "--out", "x.png")
    assert run("draw", "--base", alone, "--text-model", base / "text_encoder", "--threads", 1, "x", "--out", scratch / "x.png")


def klein(scratch):
    """A FLUX.2-klein pipeline as diffusers writes it, of a tiny size: tuned on latents, drawn from."""
    base = scratch / "klein"
    shutil.copytree(SOURCE / "tests/data/klein", base)
    shutil.copytree(SOURCE / "tests/data/flux2/transformer", base / "transformer")
    config = base / "transformer/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sample_size": 4, "text_encoder_out_layers": [1, 2, 3],
                                                                   "max_sequence_length": 48}))
    more = ["--base", base, "--threads", 1]
    run("train", *more, "--data", scratch / "styles-data", "--style", "thick style", "--words", "thick style", "--steps", 4,
        "--batch", 2, "--lora-rank", 2, "--evaluate-every", 2, "--samples", 1, "--micro-batch", 1, "--recompute",
        "--out", scratch / "klein-tuned")
    said = run("draw", *more, "--adapter", scratch / "klein-tuned/adapter", "--steps", 3, "red thing", "--out", scratch / "klein.png")
    assert "warning" not in said, said
    assert b"red thing, thick style; seed: 42; steps: 3; guidance: 4" in (scratch / "klein.png").read_bytes()
    shutil.rmtree(base / "vae")
    refused("works on latents, and there is no autoencoder (vae/) beside it", "draw", *more, "x", "--out", scratch / "x.png")


def main():
    scratch = pathlib.Path(tempfile.mkdtemp())
    data, base, text = scratch / "data", scratch / "base", scratch / "text"
    make_pictures(scratch / "pictures")
    make_text_model(text)
    run("prepare", scratch / "pictures", "--out", data, "--size", 16)

    pretrain = ["pretrain", "--data", data, "--text-model", text, "--layer", 2, "--width", 32, "--depth", 2, "--heads", 2,
                "--patch", 4, "--evaluate-every", 30, "--samples", 2, "--threads", 1, "--style", "plain style"]
    said = run(*pretrain, "--steps", 60, "--out", base)
    losses = [json.loads(line) for line in (base / "metrics.jsonl").open()]
    held_out = [row["held_out_loss"] for row in losses if "held_out_loss" in row]
    assert len(held_out) == 2 and held_out[1] < held_out[0], held_out
    assert "plan: 60 steps" in said and "pictures/s" in said and "times the plan" in said, said
    assert (base / "samples/step-60.png").read_bytes()[:4] == b"\x89PNG"
    assert list(base.glob("tensorboard/events*")) and (base / "loss.svg").exists()
    assert list(data.glob("text-states-*.safetensors")), "captions' states are kept"

    train = ["train", "--base", base, "--data", data, "--text-model", text, "--style", "thick style", "--threads", 1]
    tune = [*train, "--steps", 400, "--batch", 4, "--evaluate-every", 150, "--samples", 2, "--save-every", 20,
            "--lora-rank", 4]
    run(*tune, "--out", scratch / "whole")
    killed = scratch / "killed"
    for wanted in (signal.SIGKILL, signal.SIGTERM):
        child = subprocess.Popen([PROGRAM, *map(str, tune), "--out", killed, "--resume"],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = (killed / "checkpoint/state.json").read_text() if wanted == signal.SIGTERM else ""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:  # until a checkpoint of this session is there
            try:
                if (killed / "checkpoint/state.json").read_text() != before:
                    break
            except FileNotFoundError:
                pass
            time.sleep(0.01)
        child.send_signal(wanted)
        assert child.wait(60) == (-wanted if wanted == signal.SIGKILL else 0)
        assert not (killed / "adapter").exists(), "the run was stopped before its end"
    run(*tune, "--out", killed, "--resume")
    for name in ("pytorch_lora_weights.safetensors", "style.json"):
        assert (killed / "adapter" / name).read_bytes() == (scratch / "whole/adapter" / name).read_bytes(), name
    style = json.loads((scratch / "whole/adapter/style.json").read_text())
    assert (style["style"], style["words"]) == ("thick style", "plain style"), "it takes the place of the base's style"
    assert (style["base"], style["text_model"]) == ("../../base/model.safetensors", "../../text"), style
    bytes_ = (scratch / "whole/adapter/pytorch_lora_weights.safetensors").read_bytes()
    names = json.loads(bytes_[8:8 + int.from_bytes(bytes_[:8], "little")]).keys()
    assert any("img_qkv" in n for n in names) and not any("txt" in n or "pooled" in n for n in names), names
    run(*train, "--out", scratch / "full", "--full", "--steps", 4)
    assert (scratch / "full/model/model.safetensors").exists()

    if MPIRUN:
        ranks(scratch, train)

    draw = ["draw", "--base", base, "--text-model", text, "--threads", 1, "--steps", 3, "red square"]
    adapter = ["--adapter", scratch / "whole/adapter"]
    pictures = {}
    for name, more in (("base", []), ("tuned", adapter), ("none", [*adapter, "--scale", 0]),
                       ("again", adapter), ("seed", [*adapter, "--seed", 7])):
        assert " s a picture" in run(*draw, *more, "--out", scratch / f"{name}.png")
        bytes_ = (scratch / f"{name}.png").read_bytes()
        assert b"iTXtparameters\0" in bytes_ and b"red square, plain style" in bytes_
        pictures[name] = bytes_[bytes_.index(b"IDAT"):]
    assert pictures["base"] == pictures["none"] and pictures["tuned"] == pictures["again"]
    assert pictures["tuned"] != pictures["base"] and pictures["tuned"] != pictures["seed"]

    finish = ["finish", "--base", base, *adapter, "--data", data, "--text-model", text, "--threads", 1, "--samples", 2]
    run(*finish, "--steps", 60, "--evaluate-every", 30, "--out", scratch / "finisher")
    rows = map(json.loads, (scratch / "finisher/metrics.jsonl").open())
    held_out = [row["held_out_loss"] for row in rows if "held_out_loss" in row]
    assert len(held_out) == 2 and held_out[1] < held_out[0], held_out
    assert (scratch / "finisher/samples/step-60.png").exists()
    for name, more in (("finished", []), ("half", ["--scale", 0.5]), ("unfinished", ["--scale", 0])):
        run(*draw, *adapter, *more, "--out", scratch / f"{name}.png")
        bytes_ = (scratch / f"{name}.png").read_bytes()
        pictures[name] = bytes_[bytes_.index(b"IDAT"):]
    assert pictures["unfinished"] == pictures["base"]
    assert len({pictures[name] for name in ("base", "tuned", "half", "finished")}) == 4, "a finisher draws the end"
    finisher = scratch / "whole/adapter/finisher.safetensors"
    finisher_bytes = finisher.read_bytes()
    shutil.copy(base / "model.safetensors", finisher)
    refused("does not say at which time", *draw, *adapter, "--out", "x.png")
    finisher.write_bytes(finisher_bytes.replace(b'\\"image_size\\":16', b'\\"image_size\\":32'))
    refused("draws 32 x 32, the base 16 x 16", *draw, *adapter, "--out", "x.png")
    finisher.write_bytes(b"cut")
    refused("finisher.safetensors", *draw, *adapter, "--out", "x.png")
    run(*finish, "--steps", 1, "--out", scratch / "finisher")  # makes it anew, as the error says
    run(*draw, *adapter, "--out", scratch / "anew.png")
    run(*train, "--steps", 1, "--samples", 0, "--out", scratch / "whole")
    assert not finisher.exists(), "the adapter that it was made for is gone"
    run(*draw, "--count", 3, "--enlarge", 2, "--out", scratch / "many.png")
    assert len(list(scratch.glob("many-*.png"))) == 3

    refused("has no records.jsonl", "train", "--base", base, "--data", scratch, "--text-model", text, "--out", "x")
    refused("names no style", "train", "--base", base, "--data", data, "--text-model", text, "--out", "x")
    refused("nowhere: cannot open", "draw", "--base", scratch / "nowhere", "--text-model", text, "x", "--out", "x.png")
    refused("nowhere", "draw", "--base", base, "--text-model", scratch / "nowhere", "x", "--out", "x.png")
    refused("the prompt is empty", "draw", "--base", base, "--text-model", text, "", "--out", "x.png")
    shutil.copy(base / "model.safetensors", scratch / "cut.safetensors")
    with open(scratch / "cut.safetensors", "r+b") as file:
        file.truncate(5000)
    refused("cut.safetensors", "draw", "--base", scratch / "cut.safetensors", "--text-model", text, "x", "--out", "x.png")
    other = scratch / "other"
    run("pretrain", "--data", data, "--text-model", text, "--layer", 2, "--width", 16, "--depth", 1, "--heads", 2,
        "--steps", 1, "--samples", 0, "--threads", 1, "--out", other)
    refused("match no linear layer of this model", "draw", "--base", other, "--text-model", text, *adapter, "x", "--out", "x.png")

    # Outputs that are inputs, or could not be written, are refused before the work.
    more = ["--base", base, "--data", data, "--text-model", text, "--threads", 1]
    for out in (data, base):
        refused("is to be read and to be written", *train, "--steps", 1, "--out", out)
    refused("is to be read and to be written", "pretrain", "--data", data, "--text-model", text, "--from", base, "--out", base)
    refused("is to be read and to be written", *finish, "--steps", 1, "--out", scratch / "whole/adapter")
    for option in ("--json", "--sheet"):
        evaluate = ["evaluate", *more, *adapter, "--style", "thick style", option]
        refused("there is no folder", *evaluate, scratch / "nowhere/report")
        refused("is a folder", *evaluate, scratch)
        refused(f"is a file of {base}", *evaluate, base / "model.safetensors")
    refused("its name ends in .jpg", *draw, "--out", "x.jpg")
    refused("is a folder", *draw, "--out", scratch)
    refused("holds a PEFT adapter", "draw", "--base", SOURCE / "tests/data/models/qwen2_tiny/adapter_trained", "--text-model", text, "x", "--out", "x.png")
    published(scratch)
    klein(scratch)
    full_disk(scratch, [*train, "--samples", 0])
    shutil.rmtree(scratch)
    print("image_style: prepared, pretrained, trained, resumed, finished, drew, refused")


main()
