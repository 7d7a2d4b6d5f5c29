#!/usr/bin/env python3
"""The C API's calls from ctypes: what they give, what they refuse and with which status, and that nothing but ft_* is
exported. tests/c_api/calls.py LIBFTLIB MODEL ROOT NM"""
import ctypes as c
import json
import re
import resource
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

library, model, root, nm = sys.argv[1:5]
OK, BAD_ARGUMENT, BAD_FILE, NO_MEMORY, NO_SPACE, CANCELLED = range(6)
ft = c.CDLL(library)
for name in ("ft_version", "ft_last_error", "ft_last_notes"):
    getattr(ft, name).restype = c.c_char_p
ft.ft_count_records.restype = c.c_int64
ft.ft_count_records.argtypes = [c.c_void_p]
ft.ft_copy_adapter.argtypes = [c.c_void_p, c.c_char_p, c.c_char_p, c.c_float]
ft.ft_free.argtypes = [c.c_void_p]
ON_STEP = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_void_p)
ON_TEXT = c.CFUNCTYPE(c.c_int, c.c_char_p, c.c_void_p)
ON_PROGRESS = c.CFUNCTYPE(c.c_int, c.c_int64, c.c_int64, c.c_void_p)
folder = tempfile.TemporaryDirectory()
out = Path(folder.name)


def text(value):
    return value.encode() if isinstance(value, str) else json.dumps(value).encode() if isinstance(value, (dict, list)) else value


def call(name, *arguments, status=OK, error=""):
    got = getattr(ft, name)(*map(text, arguments))
    message = ft.ft_last_error().decode()
    assert got == status, f"{name}: status {got}, not {status}: {message}"
    assert (message == "") == (status == OK), message
    assert error in message, f"{name}: '{error}' is not in '{message}'"
    return got


def filled(name, *arguments, status=OK, error=""):
    """What a call whose last argument is a char** gives."""
    got = c.c_char_p()
    call(name, *arguments, c.byref(got), status=status, error=error)
    value = None if got.value is None else got.value.decode()
    ft.ft_free(got)
    return value


def opened(options=None, of=None):
    session = c.c_void_p()
    call(*(("ft_open_session", of) if of else ("ft_open", model)), options, c.byref(session))
    return session


def records(lines):
    got = c.c_void_p()
    call("ft_parse_records", "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), c.byref(got))
    return got


def facts(n, **more):
    return [{"question": f"What is the code of door {i}?", "answer": f"{i * 37 % 100:02}", **more} for i in range(n)]


def ask(session, question="What is the code of door 3?"):
    return filled("ft_ask", session, question, {"max_new_tokens": 12}, None, None)


# The library: its version, and what it exports.
header = (Path(root) / "include/ftlib/ftlib.h").read_text()
declared = set(re.findall(r"^FTLIB_API [^;]*?\b(ft_\w+)\(", header, re.M))
exported = {line.split()[-1] for line in subprocess.run([nm, "-D", "--defined-only", library], capture_output=True,
                                                        text=True, check=True).stdout.splitlines()}
assert declared == exported, declared ^ exported
version = (Path(root) / "include/ftlib/core/version.hpp").read_text()
assert f'FTLIB_VERSION "{ft.ft_version().decode()}"' in version
page = (Path(root) / "docs/c_api.md").read_text()
assert not [name for name in declared if f"`{name}`" not in page], "docs/c_api.md leaves out calls"
sample = (Path(root) / "tests/c_api/train.py").read_text()
assert sample.rstrip() in page, "docs/c_api.md's sample is not tests/c_api/train.py"
assert len(sample.splitlines()) < 40

# Opening: what is refused, and why.
session = c.c_void_p()
call("ft_open", model, None, None, status=BAD_ARGUMENT, error="session is NULL")
call("ft_open", None, None, c.byref(session), status=BAD_ARGUMENT, error="path is NULL")
call("ft_open", "", None, c.byref(session), status=BAD_FILE)
call("ft_open", str(out / "none.gguf"), None, c.byref(session), status=BAD_FILE, error="none.gguf")
assert session.value is None
(out / "cut.gguf").write_bytes(Path(model).read_bytes()[:5000])
call("ft_open", str(out / "cut.gguf"), None, c.byref(session), status=BAD_FILE, error="cut.gguf")
(out / "folder").mkdir()
call("ft_open", str(out / "folder"), None, c.byref(session), status=BAD_FILE, error="config.json")
call("ft_open", model, {"thread": 1}, c.byref(session), status=BAD_ARGUMENT, error="'thread' is not known")
call("ft_open", model, {"threads": "two"}, c.byref(session), status=BAD_ARGUMENT, error="threads")
call("ft_open", model, {"threads": -3}, c.byref(session), status=BAD_ARGUMENT)
call("ft_open", model, "{", c.byref(session), status=BAD_ARGUMENT, error="options")
call("ft_ask", None, "?", None, None, None, None, status=BAD_ARGUMENT, error="session is NULL")
assert ft.ft_cancel(None) == 0 and ft.ft_count_records(None) == 0
ft.ft_close(None), ft.ft_free(None), ft.ft_free_records(None)

# Records: what cannot be used is counted.
some = records([*facts(3), "{\"question\": 1}", {"question": "Q", "answer": "A", "split": "test"}])
assert ft.ft_count_records(some) == 4
call("ft_parse_records", "nothing", c.byref(c.c_void_p()), status=BAD_ARGUMENT, error="no record can be used; line 1")
broken = c.c_void_p()
call("ft_parse_records", json.dumps(facts(1)[0]) + "\n{", c.byref(broken))
assert ft.ft_last_notes().decode().startswith("1 record(s) cannot be used and are left out:\n  records:2: ")
call("ft_read_records", str(out / "none.jsonl"), c.byref(broken), status=BAD_FILE, error="none.jsonl")
(out / "facts.jsonl").write_text("\n".join(map(json.dumps, facts(12))))
read = c.c_void_p()
call("ft_read_records", str(out / "facts.jsonl"), c.byref(read))
assert ft.ft_count_records(read) == 12

# Asking: pieces make the answer; another number than 0 stops it, and what came is kept.
lm = opened({"threads": 1})
assert "llama" in filled("ft_summary", lm)
pieces = []
keep = ON_TEXT(lambda piece, user: pieces.append(piece) or 0)
base = filled("ft_ask", lm, "Who?", {"max_new_tokens": 12}, keep, None)
assert b"".join(pieces).decode() == base and base
stop = ON_TEXT(lambda piece, user: 1)
part = filled("ft_ask", lm, "Who?", {"max_new_tokens": 12}, stop, None, status=CANCELLED, error="cancelled after")
assert part and base.startswith(part) and len(part) < len(base)
assert filled("ft_generate", lm, "the", {"max_new_tokens": 4}, None, None)
turns = [{"role": "user", "content": "Who?"}]
assert filled("ft_chat", lm, turns, {"max_new_tokens": 12}, None, None) == base
assert filled("ft_chat", lm, [{"role": "system", "content": "x"}], None, None, None, status=BAD_ARGUMENT) is None
assert filled("ft_chat", lm, [{"role": "user"}], None, None, None, status=BAD_ARGUMENT, error="content") is None
call("ft_ask", lm, b"\xff", None, None, None, None, status=BAD_ARGUMENT, error="not UTF-8")
call("ft_ask", lm, "Who?", {"top_p": 2}, None, None, None, status=BAD_ARGUMENT, error="top_p")
call("ft_ask", lm, "Who?", {"max_tokens": 2}, None, None, None, status=BAD_ARGUMENT, error="known are")
call("ft_set_prompt", lm, {"form": "chat"}, status=BAD_ARGUMENT, error="chat template")  # this model has none
call("ft_set_prompt", lm, {"stop": ["\n"]})

# Training: nothing to train, splits, held-out records, a report.
call("ft_train", lm, read, None, None, None, None, status=BAD_ARGUMENT, error="nothing to train")
call("ft_attach", lm, "doors", {"rank": 0}, status=BAD_ARGUMENT, error="rank")
call("ft_attach", lm, "doors", {"kind": "lara"}, status=BAD_ARGUMENT, error="lara")
call("ft_attach", lm, "doors", {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj"], "seed": 3})
call("ft_train", lm, None, None, None, None, None, status=BAD_ARGUMENT, error="records is NULL")
call("ft_train", lm, read, {"resume": True}, None, None, None, status=BAD_ARGUMENT, error="out_dir")
call("ft_train", lm, read, {"optimizer": "sgd"}, None, None, None, status=BAD_ARGUMENT, error="adamw8bit")
call("ft_train", lm, read, {"patience": 1}, None, None, None, status=BAD_ARGUMENT, error="valid")
tested = records(facts(2, split="test"))
call("ft_train", lm, tested, None, None, None, None, status=BAD_ARGUMENT, error="2 of split 'test'")
mixed = records([*facts(8), *facts(2, split="valid"), *facts(2, split="test")])
settings = {"lr": 1e-2, "epochs": 2, "batch_tokens": 128, "max_tokens": 4000}
report = json.loads(filled("ft_train", lm, mixed, settings, None, None))
assert "not learned: 2 of split 'test'" in ft.ft_last_notes().decode()
assert report["finished"] and report["steps"] == len(report["train_loss"]) and len(report["held_out_loss"]) == 2
assert report["examples"] == 8 and report["best_loss"] > 0
lines = records([*facts(2), {"question": "Two lines?", "answer": "one\ntwo"}, {"question": "x" * 300, "answer": "long"}])
call("ft_train", lm, lines, {"lr": 0.0, "epochs": 1, "max_tokens": 100}, None, None, None)
assert "1 left out: longer than 100 tokens" in ft.ft_last_notes().decode(), ft.ft_last_notes()
assert "1 of the answers to learn hold" in ft.ft_last_notes().decode()
ft.ft_free_records(lines)
trained = ask(lm)

# Adapters: use, copy, remove; sessions; folders and bytes.
call("ft_use", lm, None)
without = ask(lm)
assert without != trained
call("ft_use", lm, "doors")
assert ask(lm) == trained
call("ft_use", lm, "none", status=BAD_ARGUMENT, error="there are 'doors'")
call("ft_copy_adapter", lm, "doors", "served", 1)
other = opened({"threads": 1}, of=lm)
assert ask(other) == without
call("ft_use", other, "doors", status=BAD_ARGUMENT, error="another session")
call("ft_use", other, "served")
assert ask(other) == trained
call("ft_use_sum", other, {"served": 0.0})
assert ask(other) == without
call("ft_use_sum", other, {"served": "much"}, status=BAD_ARGUMENT)
call("ft_freeze_adapters", lm)
call("ft_use", other, "doors")
assert json.loads(filled("ft_adapter_names", lm)) == ["doors", "served"]
call("ft_remove_adapter", lm, "served")
call("ft_remove_adapter", lm, "served", status=BAD_ARGUMENT)
call("ft_merge", lm, status=BAD_ARGUMENT, error="1 other session(s)")
call("ft_save_adapter", lm, str(out / "adapter"))
config, tensors, size = c.c_char_p(), c.c_void_p(), c.c_size_t()
call("ft_adapter_to_bytes", lm, c.byref(config), c.byref(tensors), c.byref(size))
blob = c.string_at(tensors, size.value)
assert blob == (out / "adapter/adapter_model.safetensors").read_bytes()
call("ft_adapter_from_bytes", other, "bytes", config.value, blob, c.c_size_t(size.value))
assert ask(other) == trained
call("ft_adapter_from_bytes", other, "bytes", config.value, blob[:100], c.c_size_t(100), status=BAD_FILE)
ft.ft_free(config), ft.ft_free(tensors)
call("ft_load_adapter", other, "again", str(out / "adapter"))
assert ask(other) == trained
call("ft_load_adapter", other, "again", str(out / "none"), status=BAD_FILE)
ft.ft_close(other)
call("ft_save_gguf", lm, str(out / "saved.gguf"), "q9", status=BAD_ARGUMENT, error="'q9' is not known")
call("ft_save_gguf", lm, str(out / "saved.gguf"), None)
assert "they lose twice" in ft.ft_last_notes().decode(), ft.ft_last_notes()
call("ft_save_gguf", lm, str(out / "saved.gguf"), "f32")
assert "merged: the adapter in use" in ft.ft_last_notes().decode(), ft.ft_last_notes()
exported = c.c_void_p()
call("ft_open", str(out / "saved.gguf"), None, c.byref(exported))
call("ft_set_prompt", exported, {"stop": ["\n"]})
assert ask(exported) == trained
ft.ft_close(exported)
call("ft_save_model", lm, str(out / "saved"))  # with the adapter in use folded in, which stays one here
assert ask(lm) == trained
saved = c.c_void_p()
call("ft_open", str(out / "saved"), None, c.byref(saved))
call("ft_set_prompt", saved, {"stop": ["\n"]})
assert ask(saved) == trained
ft.ft_close(saved)
call("ft_merge", lm)
assert ask(lm) == trained

# Conversations, by a chat template; the adapter brings its form along.
described = json.loads((out / "saved/tokenizer_config.json").read_text())
described["chat_template"] = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
                              "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
(out / "saved/tokenizer_config.json").write_text(json.dumps(described))
chat = c.c_void_p()
call("ft_open", str(out / "saved"), {"threads": 1}, c.byref(chat))
call("ft_set_prompt", chat, {"form": "chat"})
talk = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Who?"}]
learned = records([{"messages": [*talk, {"role": "assistant", "content": "Me."}]}])
call("ft_attach", chat, "talk", {"rank": 4})
call("ft_train", chat, learned, {"lr": 1e-2, "epochs": 5}, None, None, None)
said = filled("ft_chat", chat, talk, {"max_new_tokens": 8}, None, None)
call("ft_save_adapter", chat, str(out / "talk"))
ft.ft_close(chat), ft.ft_free_records(learned)
call("ft_open", str(out / "saved"), {"threads": 1}, c.byref(chat))
call("ft_load_adapter", chat, "talk", str(out / "talk"))
assert filled("ft_chat", chat, talk, {"max_new_tokens": 8}, None, None) == said
ft.ft_close(chat)

# Evaluation, and stopping it.
scores = json.loads(filled("ft_evaluate", lm, read, {"batch": 4, "max_new_tokens": 8}, None, None))
assert scores["n"] == 12 and len(scores["answers"]) == 12 and 0 <= scores["f1"] <= 1 and scores["perplexity"] > 1
after_four = ON_PROGRESS(lambda done, of, user: done >= 4)
assert filled("ft_evaluate", lm, read, {"batch": 4}, after_four, None, status=CANCELLED, error="4 of 12") is None
call("ft_evaluate", lm, read, {"split": "test"}, None, None, None, status=BAD_ARGUMENT, error="'test'")
assert all(a["nearness"] == 1 and 0 <= a["confidence"] <= 1 for a in scores["answers"])  # nothing is remembered
call("ft_remember_questions", lm, None, status=BAD_ARGUMENT, error="records")
call("ft_remember_questions", lm, read)
near = json.loads(filled("ft_evaluate", lm, read, {"batch": 4, "max_new_tokens": 8}, None, None))
assert all(0 <= a["nearness"] <= 1.000001 for a in near["answers"])

# One thread at a time; ft_cancel from any.
assert ft.ft_cancel(lm) == 0  # nothing runs
started, refused = threading.Event(), []
call("ft_attach", lm, "again", {"rank": 2})


def first(step, user):
    if not started.is_set():
        started.set()
        other_thread.join()
    return 0


def meddle():
    started.wait()
    refused.append((getattr(ft, "ft_summary")(lm, c.byref(c.c_char_p())), ft.ft_last_error().decode()))
    refused.append(ft.ft_cancel(lm))


other_thread = threading.Thread(target=meddle)
other_thread.start()
long = {"lr": 1e-3, "epochs": 1000, "batch_tokens": 64}
report = json.loads(filled("ft_train", lm, read, long, ON_STEP(first), None, status=CANCELLED, error="after step 1"))
assert refused[0][0] == BAD_ARGUMENT and "another thread" in refused[0][1] and refused[1] == 1, refused
assert report["steps"] == 1 and not report["finished"]
assert ask(lm)  # works on

# Sessions work side by side: three ask while this one trains, and get what they get alone.
call("ft_freeze_adapters", lm)
call("ft_attach", lm, "trained", {"rank": 2})
served = [opened({"threads": 1}, of=lm) for _ in range(3)]
for session in served:
    call("ft_use", session, "again")
alone = ask(served[0])
answers = [[], [], []]


def serve(i):
    while len(answers[i]) < 20:
        got = c.c_char_p()
        status = ft.ft_ask(served[i], b"What is the code of door 3?", b'{"max_new_tokens": 12}', None, None, c.byref(got))
        answers[i].append((status, got.value.decode() if got.value is not None else None))


threads = [threading.Thread(target=serve, args=(i,)) for i in range(3)]
for thread in threads:
    thread.start()
report = json.loads(filled("ft_train", lm, read, {"lr": 1e-3, "epochs": 10, "batch_tokens": 64}, None, None))
for thread in threads:
    thread.join()
assert report["finished"] and all(got == (OK, alone) for all_of in answers for got in all_of), answers
for session in served:
    ft.ft_close(session)

# No memory, no space: said as such, and what was there stays.
small = opened({"threads": 1, "memory_limit": 200_000})
call("ft_train_all", small, status=NO_MEMORY, error="memory limit")
assert ask(small) == without
ft.ft_close(small)
before = (out / "adapter/adapter_model.safetensors").read_bytes()
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
call("ft_save_adapter", lm, str(out / "adapter"), status=NO_SPACE, error="free some space")
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
assert (out / "adapter/adapter_model.safetensors").read_bytes() == before
call("ft_save_adapter", lm, "/proc/none/adapter", status=BAD_FILE)
for got in (some, broken, read, tested, mixed):
    ft.ft_free_records(got)
ft.ft_close(lm)
print("c_api: all calls as declared")
