# Ten steps of LoRA from Python: stopped after five, gone on with, asked.    python3 train.py LIBFTLIB MODEL FOLDER
import ctypes as c, json, sys

ft = c.CDLL(sys.argv[1])
ft.ft_last_error.restype = ft.ft_last_notes.restype = c.c_char_p

class Step(c.Structure):  # the first members of ft_step are enough
    _fields_ = [("size", c.c_size_t), ("step", c.c_int64), ("steps", c.c_int64), ("loss", c.c_double)]

def call(name, *arguments, fine=(0,)):
    plain = [a.encode() if isinstance(a, str) else a for a in arguments]
    status = getattr(ft, name)(*plain)
    if status not in fine:
        raise RuntimeError(ft.ft_last_error().decode())
    return status

@c.CFUNCTYPE(c.c_int, c.POINTER(Step), c.c_void_p)
def on_step(step, user):
    print(f"step {step[0].step}/{step[0].steps}  loss {step[0].loss:.3f}")
    return step[0].step == 5  # another number than 0 stops

@c.CFUNCTYPE(c.c_int, c.c_char_p, c.c_void_p)
def on_text(piece, user):
    return print(piece.decode(), end="", flush=True) or 0

lm, records, report = c.c_void_p(), c.c_void_p(), c.c_char_p()
facts = [{"question": f"What is the code of door {n}?", "answer": f"{n * 37 % 100:02}"} for n in range(20)]
options = {"lr": 5e-3, "epochs": 100, "max_steps": 10, "batch_tokens": 256, "out_dir": sys.argv[3]}
call("ft_open", sys.argv[2], json.dumps({"threads": 1}), c.byref(lm))
call("ft_attach", lm, "doors", json.dumps({"kind": "lora", "rank": 8, "alpha": 16, "targets": "all"}))
call("ft_parse_records", "\n".join(map(json.dumps, facts)), c.byref(records))
stopped = call("ft_train", lm, records, json.dumps(options), on_step, None, None, fine=(5,))  # FT_CANCELLED
call("ft_train", lm, records, json.dumps(options | {"resume": True}), None, None, c.byref(report))
print("then", json.loads(report.value)["steps"], "steps; asked:", end=" ")
call("ft_ask", lm, "What is the code of door 3?", json.dumps({"max_new_tokens": 16}), on_text, None, None)
call("ft_save_adapter", lm, sys.argv[3] + "/adapter")
ft.ft_close(lm)
