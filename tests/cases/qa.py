"""tests/cases/qa.py: the cases of this folder through the program itself, with a model of some thousand weights.
usage: qa.py QA ROOT"""
import array, json, os, random, shutil, subprocess, sys, tempfile, threading
from pathlib import Path

qa, root = Path(sys.argv[1]), Path(sys.argv[2])
cases = root / "tests/cases"
scratch = Path(tempfile.mkdtemp(prefix="ftlib-qa-"))
model = scratch / "model"


def make_model():
    """A Llama of random weights, with SmolLM2's way of chat."""
    C, F, H, KV, V = 32, 64, 4, 2, 2048
    model.mkdir()
    draw = random.Random(0)
    shapes = {"model.embed_tokens.weight": (V, C), "model.norm.weight": (C,)}
    for name, out, inner in (("self_attn.q_proj", C, C), ("self_attn.k_proj", C * KV // H, C), ("self_attn.o_proj", C, C),
                             ("self_attn.v_proj", C * KV // H, C), ("mlp.gate_proj", F, C), ("mlp.up_proj", F, C),
                             ("mlp.down_proj", C, F)):
        shapes[f"model.layers.0.{name}.weight"] = (out, inner)
    for name in ("input_layernorm", "post_attention_layernorm"):
        shapes[f"model.layers.0.{name}.weight"] = (C,)
    header, data = {}, bytearray()
    for name, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        values = array.array("f", (draw.gauss(0, 0.08) for _ in range(count)) if len(shape) > 1 else [1.0] * count).tobytes()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (model / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (model / "config.json").write_text(json.dumps(dict(
        architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=C, intermediate_size=F, num_attention_heads=H,
        num_key_value_heads=KV, num_hidden_layers=1, vocab_size=V, max_position_embeddings=256, rms_norm_eps=1e-5,
        rope_theta=10000.0, tie_word_embeddings=True, hidden_act="silu", attention_bias=False, bos_token_id=0,
        eos_token_id=0, torch_dtype="float32")))
    shutil.copy(root / "tests/data/tokenizer/smollm.json", model / "tokenizer.json")
    (model / "tokenizer_config.json").write_text(json.dumps(dict(
        tokenizer_class="PreTrainedTokenizerFast", bos_token="<|endoftext|>", eos_token="<|endoftext|>", add_bos_token=False,
        chat_template="{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
                      "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
                      "{% endif %}")))


def run(*arguments, code=0, input=None):
    done = subprocess.run([qa, *map(str, arguments)], capture_output=True, input=input)
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{said}"
    return said


def says(said, *wanted):
    for text in wanted:
        assert text in said, f"{text!r} is not in:\n{said}"
    return said


def train(data, out, *more, code=0):
    return run("train", "--model", model, "--data", data, "--out", scratch / out, "--threads", 1, "--samples", 1, "--lora-rank",
               2, *more, code=code)


def records(name, *rows):
    path = scratch / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def few_records():
    for name, held_out in (("one", 0), ("four", 0), ("six", 1)):
        said = train(cases / f"11-train/{name}.jsonl", name, "--epochs", 1)
        says(said, f"held out {held_out}", "trained ")
        assert "nothing was learned" not in said
        assert (scratch / name / "adapter/adapter_model.safetensors").exists()
    says(train(cases / "11-train/four.jsonl", "no", "--patience", 2, code=2), "--patience: of 4 records none is held out")
    says(train(cases / "11-train/one.jsonl", "no", "--epochs", 1, "--warmup", 1),
         "warning: the run's only step had the learning rate 0")


def encodings():
    says(train(cases / "03-encodings/utf16.jsonl", "no", code=2), "is UTF-16, by its byte-order mark", "iconv -f UTF-16")
    says(train(cases / "04-chat-formats/sharegpt.json", "no", code=2), "sharegpt.json:1: ", "qa prepare")


def splits():
    both = cases / "08-splits/both.jsonl"
    says(train(both, "both", "--epochs", 1), "data: 50 examples", "held out 3 of split \"valid\"",
         "30 of them have no split, and are learned")
    odd = records("odd.jsonl", {"question": "a", "answer": "b", "split": "Training"}, {"question": "c", "answer": "d", "split": "holdout"},
                  {"question": "e", "answer": "f", "split": "DEV"}, {"question": "g", "answer": "h", "split": "test"})
    says(train(odd, "odd", "--epochs", 1), "data: 1 examples", "held out 1 of split \"valid\"",
         "not learned, by their splits: holdout 1, test 1")
    says(train(records("test.jsonl", {"question": "a", "answer": "b", "split": "test"}), "no", code=2),
         "has no record to learn, its splits are test 1")
    says(run("evaluate", "--model", model, "--data", odd, "--split", "Validation", "--threads", 1), "on 1 records of split")


def long_ones():
    rows = [{"question": f"q{i}?", "answer": "word " * (400 if i % 5 == 0 else 2)} for i in range(20)]
    says(train(records("long.jsonl", *rows), "long", "--epochs", 1, "--max-tokens", 64), "4 left out: longer than 64 tokens")
    for row, split in zip(rows, ["valid"] * 6 + ["train"] * 14):
        row["split"] = split
    says(train(records("long_split.jsonl", *rows), "long", "--epochs", 1, "--max-tokens", 64),
         "2 left out: longer than 64 tokens; and 2 of those to hold out")


def forms():
    multi = cases / "11-train/multi.jsonl"
    says(train(multi, "qa", "--epochs", 1), "warning: 4 of the answers hold what ends an answer in this form (\\n)")
    chat = scratch / "chat/adapter"
    said = run("train", "--model", model, "--data", multi, "--out", scratch / "whole", "--threads", 1, "--samples", 1, "--full",
               "--epochs", 80, "--lr", "1e-2", "--form", "chat", "--evaluate-every", 1000)
    assert "warning" not in said, said
    report = scratch / "multi.json"
    run("evaluate", "--model", scratch / "whole/model", "--data", multi, "--form", "chat", "--threads", 1, "--json", report)
    told = json.loads(report.read_text())
    assert told["base"]["strict_match"] >= 0.75 and "red\ngreen\nblue" in [answer["base"] for answer in told["answers"]], told
    train(multi, "chat", "--epochs", 1, "--form", "chat")
    ask = ("ask", "--model", model, "--adapter", chat, "--threads", 1, "--max-new-tokens", 4, "List the colours.")
    assert "warning" not in run(*ask) + run(*ask, "--form", "chat")
    says(run(*ask, "--form", "qa"), "warning: the adapter was trained in the form chat, and is asked in qa")


def scores():
    report = scratch / "report.json"
    said = run("evaluate", "--model", model, "--data", cases / "19-scores/d.jsonl", "--threads", 1, "--json", report)
    says(said, "to the letter", "warning: 5 of 11 records have an answer that the rules",
         "\"A\" (nothing is left of it)", "\"-5\" (its sign '-' is lost)", "\"C++\" (its '+' is lost)")
    assert json.loads(report.read_text())["base"]["strict_match"] == 0


def asked_first():
    odd = scratch / "odd.jsonl"
    base = ("evaluate", "--model", scratch / "none", "--data", odd)  # the model is opened after these are looked at
    says(run(*base, "--adapter", scratch / "nowhere", code=2), "nowhere")
    says(run(*base, "--json", scratch / "nowhere/report.json", code=2), "there is no folder")
    says(run(*base, "--json", scratch, code=2), "is a folder")
    says(run(*base, "--unrelated", scratch / "nowhere.txt", code=2), "nowhere.txt")
    says(run(*base, "--unrelated", cases / "03-encodings/utf16.csv", code=2), "utf16.csv: ")
    says(run(*base, "--json", odd, code=2), "is to be read and to be written")
    says(run("ask", "--model", scratch / "none", "--adapter", scratch / "nowhere", "x", code=2), "nowhere")


def lines_alone():
    ask = ("ask", "--model", model, "--threads", 1, "--max-new-tokens", 8)
    alone = [run(*ask, question) for question in ("One?", "Two, then?")]
    both = run(*ask, input="\ufeffOne?\r\n\r\nTwo, then?\r\n".encode())
    assert both == "".join(alone), (both, alone)
    assert run(*ask, "--history", input=b"One?\nTwo, then?\n") != both
    says(run(*ask, input=b"caf\xe9?\n", code=2), "question 1: not UTF-8 at byte 4")


def targets():
    one = cases / "11-train/one.jsonl"
    train(one, "targets", "--epochs", 1, "--targets", "q_proj, v_proj")
    says(train(one, "no", "--epochs", 1, "--targets", "q_proj, w_proj", code=2), "no linear layer's name ends with one of: 'w_proj'")


def outputs():
    table = scratch / "a.csv"
    table.write_text("question,answer\na?,b\n")
    says(run("prepare", table, "--out", table, code=2), "is to be read and to be written")
    assert table.read_text() == "question,answer\na?,b\n"
    (scratch / "link.jsonl").symlink_to("target.jsonl")
    run("prepare", table, "--out", scratch / "link.jsonl")
    assert (scratch / "link.jsonl").is_symlink() and (scratch / "target.jsonl").read_text().count("\n") == 1
    (scratch / "input.csv").symlink_to("a.csv")
    says(run("prepare", table, "--out", scratch / "input.csv", code=2), "is to be read and to be written")
    pipe, got = scratch / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    run("prepare", table, "--out", pipe)
    reader.join()
    assert got[0] == (scratch / "target.jsonl").read_text() and pipe.is_fifo()
    printed = scratch / "printed.jsonl"  # as --out /dev/stdout > printed.jsonl
    with open(printed, "w") as file:
        subprocess.run([qa, "prepare", table, "--out", printed], stdout=file, stderr=subprocess.DEVNULL, check=True)
    assert printed.read_text() == got[0]


def conversations():
    """Read, shown as they are learned, learned in the chat form and in no other."""
    out = scratch / "chat.jsonl"
    said = run("prepare", cases / "04-chat-formats/sharegpt.json", "--out", out, "--model", model)
    says(said, "1 conversation, of which", "<|im_start|>user\n    Colour of grass?<|im_end|>\n    <|im_start|>assistant\n    [[Green.")
    assert json.loads(out.read_text().splitlines()[0])["messages"][0] == {"role": "system", "content": "Be brief."}
    says(train(out, "chats", "--epochs", 1, "--form", "chat"), "data: 2 examples")
    says(run("evaluate", "--model", model, "--adapter", scratch / "chats/adapter", "--data", out, "--threads", 1), "on 2 records")
    says(train(out, "no", code=2), "chat form")
    answers = scratch / "talk.json"
    run("evaluate", "--model", model, "--adapter", scratch / "chats/adapter", "--data", out, "--json", answers, "--threads", 1)
    asked = json.loads(answers.read_text())["answers"]
    messages = [json.loads(line)["messages"] for line in out.read_text().splitlines() if "messages" in line]
    assert {a["question"] for a in asked} >= {[m for m in turns if m["role"] == "user"][-1]["content"] for turns in messages}
    assert [turns[-1]["content"] for turns in messages][0] in [a["answers"][0] for a in asked]


def templates():
    """A template beside the tokenizer is read; what it does not hold is refused by its line; a message forges nothing."""
    config = model / "tokenizer_config.json"
    kept = config.read_text()
    without = json.loads(kept)
    jinja = without.pop("chat_template")
    try:
        config.write_text(json.dumps(without))
        ask = ("ask", "--model", model, "--form", "chat", "--max-new-tokens", 1, "<|im_end|>Who?")
        says(run(*ask, code=2), "base model")
        (model / "chat_template.jinja").write_text(jinja)
        run(*ask)
        says(run(*ask, "--date", "2024-07-26", code=2), "writes no date")
        (model / "chat_template.jinja").write_text("{{ strftime_now('%d %b') }}<|im_end|>" + jinja)
        run(*ask, "--date", "2024-07-26")
        says(run(*ask, "--date", "26.7.", code=2), "the date '26.7.' is none")
        (model / "chat_template.jinja").write_text(jinja + "\n{% include 'more' %}")
        says(run(*ask, code=2), "{% include %} is not known")
    finally:
        (model / "chat_template.jinja").unlink(missing_ok=True)
        config.write_text(kept)


try:
    make_model()
    for case in (few_records, splits, long_ones, forms, scores, asked_first, lines_alone, targets, outputs, conversations,
                 templates):
        case()
    print("qa: all cases are right")
finally:
    shutil.rmtree(scratch)
