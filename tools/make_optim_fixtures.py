#!/usr/bin/env python3
"""Makes tests/data/optim/*.json (torch's AdamW, Lion, bitsandbytes' codes, transformers' schedules) and tests/data/tensorboard/* (event files).

Needs torch, transformers, tensorboard, bitsandbytes. Run from the repository's root: python tools/make_optim_fixtures.py
"""
import json
import math
import pathlib
import struct

import torch
import transformers

DATA = pathlib.Path("tests/data")
STEPS = 20
SETTINGS = {"lr": 0.015625, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.125}
# name, shape, decay, steps in which it has no gradient
PARAMETERS = [("scalar", [1], True, []), ("bias", [7], False, []), ("weight", [5, 13], True, [0, 1, 2]),
              ("stack", [2, 3, 5], True, [7, 8]), ("wide", [3, 521], True, [])]


def float32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


def initial(index, i):
    return math.cos(0.37 * i + index)


def gradient(index, i, step):
    return math.sin(0.7 * i + 1.3 * step + index) * (1 + 0.01 * step)


def adamw(dtype):
    """The parameters after 20 steps, the learning rate falling linearly; settings as C++ floats hold them."""
    weights = []
    for index, (_, shape, _, _) in enumerate(PARAMETERS):
        values = [float32(initial(index, i)) for i in range(math.prod(shape))]
        weights.append(torch.nn.Parameter(torch.tensor(values, dtype=dtype).reshape(shape)))
    common = dict(lr=SETTINGS["lr"], betas=(float32(SETTINGS["beta1"]), float32(SETTINGS["beta2"])),
                  eps=float32(SETTINGS["eps"]))
    decayed = [w for w, p in zip(weights, PARAMETERS) if p[2]]
    plain = [w for w, p in zip(weights, PARAMETERS) if not p[2]]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": SETTINGS["weight_decay"]},
                                   {"params": plain, "weight_decay": 0.0}], **common)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = float32(SETTINGS["lr"] * (1 - step / 32))
        for index, (w, (_, shape, _, without)) in enumerate(zip(weights, PARAMETERS)):
            values = [float32(gradient(index, i, step)) for i in range(math.prod(shape))]
            w.grad = None if step in without else torch.tensor(values, dtype=dtype).reshape(shape)
        optimizer.step()
    return weights, optimizer


def adamw_fixture():
    single, _ = adamw(torch.float32)
    double, optimizer = adamw(torch.float64)
    out = {"settings": SETTINGS, "steps": STEPS, "parameters": []}
    for w32, w64, (name, shape, decay, without) in zip(single, double, PARAMETERS):
        out["parameters"].append({
            "name": name, "shape": shape, "decay": decay, "without": without, "t": int(optimizer.state[w64]["step"]),
            "float": [float(f"{v:.9g}") for v in w32.detach().flatten().tolist()],
            "double": w64.detach().flatten().tolist()[:65]})
    return out


def lion_fixture():
    """Twenty steps of Lion, algorithm 2 of arXiv:2302.06675, on the parameters of adamw(), in float64."""
    lr, beta1, beta2, decay = 0.015625, float32(0.9), float32(0.99), 0.125
    weights, momenta = [], []
    for index, (_, shape, _, _) in enumerate(PARAMETERS):
        weights.append(torch.tensor([float32(initial(index, i)) for i in range(math.prod(shape))], dtype=torch.float64))
        momenta.append(torch.zeros_like(weights[-1]))
    for step in range(STEPS):
        rate = float32(lr * (1 - step / 32))
        for index, (_, shape, decays, without) in enumerate(PARAMETERS):
            if step in without:
                continue
            g = torch.tensor([float32(gradient(index, i, step)) for i in range(math.prod(shape))], dtype=torch.float64)
            w, m = weights[index], momenta[index]
            direction = torch.sign(beta1 * m + (1 - beta1) * g)
            weights[index] = (1 - rate * (decay if decays else 0)) * w - rate * direction
            momenta[index] = beta2 * m + (1 - beta2) * g
    return {"settings": {"lr": lr, "beta1": 0.9, "beta2": 0.99, "weight_decay": decay}, "steps": STEPS,
            "parameters": [{"name": p[0], "shape": p[1], "decay": p[2], "without": p[3], "double": w.tolist()[:65]}
                           for p, w in zip(PARAMETERS, weights)]}


def moments_fixture():
    """bitsandbytes' codes of 256 values, and arrays quantised by them in blocks of 256 and brought back."""
    import bitsandbytes.functional as functional

    out = {"block": 256, "cases": []}
    for signed in (True, False):
        code = functional.create_dynamic_map(signed=signed)
        values = [float32(math.sin(0.7 * i) * math.exp(-0.02 * i)) for i in range(600)]
        if not signed:
            values = [v * v for v in values]
        x = torch.tensor(values)
        codes, state = functional.quantize_blockwise(x, code=code, blocksize=256)
        back = functional.dequantize_blockwise(codes, state)
        out["cases"].append({"signed": signed, "code": [float(f"{v:.9g}") for v in code.tolist()],
                             "codes": codes.tolist(), "max": [float(f"{v:.9g}") for v in state.absmax.tolist()],
                             "back": [float(f"{v:.9g}") for v in back.tolist()]})
    return out


def schedule_fixture():
    class Nothing(torch.optim.Optimizer):
        def __init__(self):
            super().__init__([torch.nn.Parameter(torch.zeros(1))], {"lr": 1.0})

    cases = []
    for steps, warmup in [(1, 0), (10, 0), (100, 10), (37, 5), (20, 20), (12, 30)]:
        makers = [("constant", 0.0, transformers.get_constant_schedule_with_warmup(Nothing(), warmup)),
                  ("linear", 0.0, transformers.get_linear_schedule_with_warmup(Nothing(), warmup, steps)),
                  ("cosine", 0.0, transformers.get_cosine_schedule_with_warmup(Nothing(), warmup, steps)),
                  ("cosine", 0.25, transformers.get_cosine_with_min_lr_schedule_with_warmup(
                      Nothing(), warmup, steps, min_lr_rate=0.25))]
        for kind, floor, scheduler in makers:
            values = [round(scheduler.lr_lambdas[0](step), 10) for step in range(steps)]
            cases.append({"kind": kind, "steps": steps, "warmup": warmup, "floor": floor, "values": values})
    shares = [{"warmup": w, "steps": n, "first": transformers.TrainingArguments(
        output_dir="/tmp/unused", warmup_steps=w, use_cpu=True).get_warmup_steps(n)}
        for w, n in [(0.03, 100), (0.03, 1000), (0.1, 100), (0.25, 10), (0.0, 10), (0.5, 7), (3, 10), (0.01, 1)]]
    return {"cases": cases, "shares": shares}


def clip_fixture():
    """torch's clip_grad_norm_ on the gradients that `gradient` gives for step 3."""
    weights = []
    for index, (_, shape, _, _) in enumerate(PARAMETERS):
        w = torch.nn.Parameter(torch.zeros(shape))
        values = [float32(gradient(index, i, 3)) for i in range(math.prod(shape))]
        w.grad = torch.tensor(values).reshape(shape)
        weights.append(w)
    norm = torch.nn.utils.clip_grad_norm_(weights, 2.0)
    return {"norm": float(norm), "max_norm": 2.0, "bias": weights[1].grad.tolist()}


def tensorboard_fixture(folder):
    """An event file as TensorBoard's own writer makes it, with fixed times; read back by its own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "events.out.tfevents.1700000000.ftlib.0"
    wall = 1700000000.25
    png = bytes(range(256)) * 3  # stands for a picture; TensorBoard does not decode it

    def summary(step, **value):
        return event_pb2.Event(wall_time=wall, step=step,
                               summary=summary_pb2.Summary(value=[summary_pb2.Summary.Value(**value)]))

    one_string = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)])
    text = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, tensor_shape=one_string,
                                  string_val=["Q: \uc9c0\uad6c?\nA: *yes*".encode()])
    plugin = summary_pb2.SummaryMetadata(plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name="text"))
    image = summary_pb2.Summary.Image(height=16, width=300, colorspace=3, encoded_image_string=png)
    events = [event_pb2.Event(wall_time=wall, file_version="brain.Event:2"),
              event_pb2.Event(wall_time=wall, step=1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START)),
              summary(0, tag="train/loss", simple_value=0.0),
              summary(1, tag="train/loss", simple_value=2.5),
              summary(300, tag="lr", simple_value=float("nan")),
              summary(1 << 40, tag="train/loss", simple_value=-1e-3),
              summary(2, tag="sample", image=image),
              summary(3, tag="answers", tensor=text, metadata=plugin)]
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    assert [(e.step, e.value) for e in accumulator.Scalars("train/loss")][1] == (1, 2.5)
    assert accumulator.Images("sample")[0].encoded_image_string == png


def main():
    (DATA / "optim").mkdir(parents=True, exist_ok=True)
    (DATA / "optim/adamw.json").write_text(json.dumps(adamw_fixture()) + "\n")
    (DATA / "optim/lion.json").write_text(json.dumps(lion_fixture()) + "\n")
    (DATA / "optim/moments.json").write_text(json.dumps(moments_fixture()) + "\n")
    (DATA / "optim/clip.json").write_text(json.dumps(clip_fixture()) + "\n")
    (DATA / "optim/schedule.json").write_text(json.dumps(schedule_fixture()) + "\n")
    tensorboard_fixture(DATA / "tensorboard")


if __name__ == "__main__":
    main()
