"""tests/cases/qa.py: the cases of this folder through the program itself, with a model of some thousand weights.
usage: qa.py QA ROOT"""
import array, json, math, os, random, re, shutil, struct, subprocess, sys, tempfile, threading, time
from pathlib import Path

from programs import runner, says

qa, root = Path(sys.argv[1]), Path(sys.argv[2])
run = runner(qa)
cases = root / "tests/cases"
scratch = Path(tempfile.mkdtemp(prefix="ftlib-qa-"))
model = scratch / "model"


def write_tensors(path, tensors, metadata={}):
    """safetensors of float32: name -> (shape, array)."""
    header, data = ({"__metadata__": metadata} if metadata else {}), bytearray()
    for name, (shape, values) in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + 4 * len(values)]}
        data += values.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def read_tensors(path):
    file = path.read_bytes()
    size = int.from_bytes(file[:8], "little")
    header, data = json.loads(file[8:8 + size]), file[8 + size:]
    metadata = header.pop("__metadata__", {})
    return {name: (t["shape"], array.array("f", data[slice(*t["data_offsets"])])) for name, t in header.items()}, metadata


def make_model():
    """A Llama of random weights, with SmolLM2's way of chat."""
    C, F, H, KV, V = 32, 64, 4, 2, 2000
    model.mkdir()
    draw = random.Random(1)
    shapes = {"model.embed_tokens.weight": (V, C), "model.norm.weight": (C,)}
    for name, out, inner in (("self_attn.q_proj", C, C), ("self_attn.k_proj", C * KV // H, C), ("self_attn.o_proj", C, C),
                             ("self_attn.v_proj", C * KV // H, C), ("mlp.gate_proj", F, C), ("mlp.up_proj", F, C),
                             ("mlp.down_proj", C, F)):
        shapes[f"model.layers.0.{name}.weight"] = (out, inner)
    for name in ("input_layernorm", "post_attention_layernorm"):
        shapes[f"model.layers.0.{name}.weight"] = (C,)
    tensors = {}
    for name, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        tensors[name] = shape, array.array("f", (draw.gauss(0, 0.08) for _ in range(count)) if len(shape) > 1 else [1.0] * count)
    write_tensors(model / "model.safetensors", tensors)
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
    said = train(cases / "11-train/one.jsonl", "warm", "--epochs", 2, "--warmup", 2)
    rates = [json.loads(line)["lr"] for line in (scratch / "warm/metrics.jsonl").read_text().splitlines() if '"lr"' in line]
    assert len(rates) == 2 and 0 < rates[0] < rates[1], (said, rates)  # a warm-up counts from the first step


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


def kept_and_withheld():
    facts = [{"id": f"f{i}/0", "question": f"number {i} colour?", "answer": ("red", "green", "blue")[i % 3], "split": split}
             for i in range(30) for split in ("train", "valid")]
    data = records("facts.jsonl", *facts)
    sharp = scratch / "sharp"  # the same model, whose last norm lets it be sure of something
    shutil.copytree(model, sharp)
    tensors, metadata = read_tensors(model / "model.safetensors")
    shape, values = tensors["model.norm.weight"]
    write_tensors(sharp / "model.safetensors", tensors | {"model.norm.weight": (shape, array.array("f", [8 * v for v in values]))}, metadata)

    def learn(out, *more):
        return run("train", "--model", sharp, "--data", data, "--out", scratch / out, "--threads", 1, "--samples", 1, "--lr", 1e-2,
                   "--evaluate-every", 100, *more)

    free = learn("free", "--epochs", 100, "--keep-weight", 0)
    says(free, "sure: an answer of a nearness under ",
         ' to the questions that it was learned for becomes "I do not know.", which costs ')
    lost, right = map(int, re.search(r"which costs (\d+) of (\d+) right answers to held-out questions", free).groups())
    assert lost <= 0.2 * right and right >= 20, free
    assert "sure:" not in learn("all", "--epochs", 1, "--keep-weight", 0, "--withhold", 0)
    assert "keep:" not in free and not (scratch / "free/base-text.jsonl").exists(), free
    said = learn("held", "--epochs", 100, "--keep-weight", 0.05)
    says(said, " tokens, that the base wrote; watched ", "; kept text: perplexity +",
         "sure: it answers whatever it is asked, for of 30 held-out questions it answers ")
    written = (scratch / "held/base-text.jsonl").read_bytes()
    assert len(written.splitlines()) > 80
    shutil.copytree(scratch / "held", scratch / "again")
    learn("again", "--epochs", 1, "--keep-weight", 0.05)  # the base's text is taken as it is there
    assert (scratch / "again/base-text.jsonl").read_bytes() == written
    # Two adapters: which is the better one, by what rule; and what was never trained is not made up.
    strange = [{"id": f"s{i}/0", "question": f"How {word}?", "answer": "never", "split": "untrained"}
               for i, word in enumerate("long wide deep heavy old tall near round red loud".split())]
    asked = records("asked.jsonl", *facts, *strange)
    text = scratch / "unrelated.txt"
    text.write_text("The weather was fine, and we went out to see the ships. " * 3)
    report = scratch / "two.json"
    said = run("evaluate", "--model", sharp, "--data", asked, "--split", "valid", "--adapter", scratch / "free/adapter", "--adapter",
               scratch / "held/adapter", "--unrelated", text, "--json", report, "--threads", 1)
    says(said, "tuned 1", "tuned 2", "95 % of draws: from", "the better one: tuned ", "at most 10 %")
    both = json.loads(report.read_text())["adapters"]
    rise = [both[str(scratch / name / "adapter")]["unrelated_perplexity"] for name in ("free", "held")]
    assert rise[1] < rise[0], rise
    low, high = both[str(scratch / "held/adapter")]["exact_match_95"]
    assert low <= both[str(scratch / "held/adapter")]["exact_match"] <= high
    said = run("evaluate", "--model", sharp, "--data", asked, "--adapter", scratch / "held/adapter", "--split", "untrained",
               "--sure", 1, "--json", report, "--threads", 1)
    answers = json.loads(report.read_text())["answers"]
    assert all(a["tuned"] == "I do not know." for a in answers), answers
    says(run("ask", "--model", sharp, "--adapter", scratch / "held/adapter", "--sure", 1, "How odd?", "--threads", 1), "I do not know.")
    # Of a user's own text, with a report of what is no text; other records beside; questions without an answer.
    paragraphs = scratch / "own.txt"
    paragraphs.write_text("\n\n".join(f"Paragraph {i} of some prose." for i in range(12)))
    open_ones = records("open.jsonl", *({"question": f"What of {i}?", "answers": [], "lang": "en"} for i in range(4)))
    said = train(data, "own", "--data", open_ones, "--keep", paragraphs, "--mix", f"{open_ones}=0.5", "--epochs", 1)
    says(said, f"tokens, of {paragraphs}; watched 1", "4 of all have no answer", "open.jsonl, 4 examples, weight 0.5")
    says(train(data, "no", "--mix", f"{open_ones}=-1", code=2), "its weight is no number of 0 or more")
    says(train(data, "no", "--keep", records("no_text.jsonl", facts[0]), code=2), "has no record with a text")
    says(train(data, "no", "--keep", records("few.jsonl", {"text": "one"}), code=2), "1 texts are too few")
    # All weights: the text itself is learned.
    says(run("train", "--model", model, "--data", data, "--out", scratch / "whole_kept", "--threads", 1, "--full", "--keep", paragraphs,
             "--epochs", 1), "; loss on kept text ")


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


def numbers_and_blanks():
    """Numbers that are none, and what a shell's variable that was not set leaves, are refused before anything is done."""
    one = cases / "11-train/one.jsonl"
    for option in ("--lr", "--interpolate", "--weight-decay", "--warmup", "--clip-norm", "--lora-dropout", "--lora-alpha"):
        for value in ("nan", "inf"):
            says(train(one, "no", option, value, code=2), option + ": is no finite number")
    evaluate = ("evaluate", "--model", model, "--data", one)
    for option in ("--adapter", "--json", "--unrelated"):
        says(run(*evaluate, option, "", code=2), option + ": is empty")
    says(run("train", "--model", model, "--data", one, "--out", "", code=2), "--out: is empty")
    says(run("ask", "--model", model, "", code=2), "is empty")
    says(train(one, "thrown", "--epochs", 3, "--lr", "1e6", "--clip-norm", 0),
         "warning: the last 2 of 3 steps were skipped, for their loss or gradient was not finite")


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


def preferences():
    """Pairs are prepared, learned, and judged; with records beside them; refused where no base would be left."""
    pairs = scratch / "pairs.jsonl"
    table = scratch / "pairs.csv"
    table.write_text("prompt,chosen,rejected,split\n" + "".join(
        f"How is {word}?,{word} is fine today,{word} is a mess again,{'test' if i % 4 == 3 else 'train'}\n"
        for i, word in enumerate("rain snow hail wind fog sun frost dew ice mist heat cold".split())))
    says(run("prepare", table, "--out", pairs, "--model", model), "12 preference pairs", 'answer from "chosen"; rejected from "rejected"',
         "[[ rain is fine today", "not [[rain is a mess again]]")
    said = says(train(pairs, "preferred", "--epochs", 30, "--lr", 1e-2, "--keep-weight", 0), "preference pairs: 9, ",
                "held out 3 of split \"test\"", "preferences: beta 0.1, rate 0.01")
    assert "sure:" not in said and "data:" not in said, said
    assert json.loads((scratch / "preferred/training.json").read_text())["preference_pairs"] == 9
    report = scratch / "preferred.json"
    says(run("evaluate", "--model", model, "--adapter", scratch / "preferred/adapter", "--data", pairs, "--threads", 1, "--json", report),
         "on 3 preference pairs of split 'test'", "pairs: better one likelier", "has the larger reward")
    judged = json.loads(report.read_text())
    assert judged["tuned"]["pairs"]["larger_reward"] == 1 and judged["tuned"]["pairs"]["margin"] > 0.1, judged
    assert judged["base"]["pairs"]["margin"] == 0 and judged["base"]["pairs"]["n"] == 3, judged
    beside = records("beside.jsonl", *({"question": f"q{i}?", "answer": f"a{i}"} for i in range(8)))
    says(run("train", "--model", model, "--data", pairs, "--data", beside, "--out", scratch / "both", "--threads", 1, "--lora-rank", 2,
             "--epochs", 2, "--keep-weight", 0), "data: 8 examples", "preference pairs: 9, ", "each a mean")
    says(run("train", "--model", model, "--data", pairs, "--out", scratch / "no", "--full", code=2), "--full: preference pairs are learned beside the base")
    says(train(beside, "mixed", "--epochs", 1, "--keep-weight", 0, "--mix", pairs),
         "warning: of 9 preference pairs in ", "the better answers alone are learned")
    says(train(pairs, "short", "--max-tokens", 4, code=2), "of 9 records no pair is left; 9 pairs left out: longer than 4 tokens")


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


def changed_model(name, change=None, **configs):
    """A copy of the model, its tensors changed, and its JSON files by what configs say of them."""
    copy = scratch / name
    shutil.copytree(model, copy)
    if change:
        tensors, metadata = read_tensors(copy / "model.safetensors")
        change(tensors)
        write_tensors(copy / "model.safetensors", tensors, metadata)
    for file, values in configs.items():
        path = copy / f"{file}.json"
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values}))
    return copy


def adapters():
    """Other people's adapters: read as what they are, or refused by name."""
    rows = records("adapter.jsonl", *({"question": f"What is {i}?", "answer": f"number {i}"} for i in range(4)))
    train(rows, "plain", "--epochs", 20, "--lr", "1e-2")
    plain = scratch / "plain/adapter"
    config = json.loads((plain / "adapter_config.json").read_text())
    tensors, metadata = read_tensors(plain / "adapter_model.safetensors")
    q = "base_model.model.model.layers.0.self_attn.q_proj.lora_"

    def ask(name, settings={}, change=lambda t: t, code=0):
        folder = scratch / "adapters" / name
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text(json.dumps({**config, **settings}))
        write_tensors(folder / "adapter_model.safetensors", change(dict(tensors)), metadata)
        return run("ask", "--model", model, "--adapter", folder, "--threads", 1, "--max-new-tokens", 8, "What is 2?", code=code)

    def refused(name, settings, why, change=lambda t: t):
        says(ask(name, settings, change, code=2), why)

    answer = ask("as_trained")
    assert answer != run("ask", "--model", model, "--threads", 1, "--max-new-tokens", 8, "What is 2?")
    assert ask("default_key", {}, lambda t: {
        k.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."): v for k, v in t.items()}) == answer
    assert ask("no_prefix", {}, lambda t: {k.replace("base_model.model.", ""): v for k, v in t.items()}) == answer
    for name in ("pissa", "olora"):
        says(ask(name, {"init_lora_weights": name}), f"trained as '{name}' beside a changed base")
    refused("loftq", {"init_lora_weights": "loftq"}, "init_lora_weights 'loftq' is not supported")
    refused("alora", {"alora_invocation_tokens": [5, 6]}, "alora_invocation_tokens is not supported")
    refused("lora_bias", {"lora_bias": True}, "lora_bias is not supported")
    more = {"lora_bias_tensor": (q + "B.bias", [32], ".lora_B.bias is not supported"),
            "embedlora": ("base_model.model.model.embed_tokens.lora_embedding_A", [2, 2000], ".lora_embedding_A is not supported"),
            "lmhead": ("base_model.model.lm_head.lora_A.weight", [2, 32], "this model's head is its embedding")}
    for name, (tensor, shape, why) in more.items():
        refused(name, {}, why, lambda t: {**t, tensor: (shape, array.array("f", [0] * math.prod(shape)))})
    says(ask("otherbase", {"base_model_name_or_path": "meta-llama/Llama-3.2-1B"}),
         "warning: ", "the adapter was made for 'meta-llama/Llama-3.2-1B'")
    says(ask("half", {}, lambda t: {k: v for k, v in t.items() if "v_proj" not in k}),
         "warning: ", "of 1 layers that target_modules names there are no tensors", "'model.layers.0.self_attn.v_proj'")
    says(ask("pattern", {"target_modules": ".*self_attn.(q|k)_proj"}), "5 layers that target_modules does not name have tensors")
    said = ask("all", {"target_modules": "all-linear"})
    assert said == answer, said
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 134616\n"
    (scratch / "adapters/as_trained/adapter_model.safetensors").write_text(pointer)
    says(run("ask", "--model", model, "--adapter", scratch / "adapters/as_trained", "x", code=2), "is a pointer of Git LFS")
    (scratch / "page.gguf").write_text("\n<!DOCTYPE html><html></html>")
    says(run("ask", "--model", scratch / "page.gguf", "x", code=2), "is a web page")
    says(run("ask", "--model", plain, "x", code=2), "holds an adapter, and no model", "--adapter")
    says(run("ask", "--model", model, "--adapter", model, "x", code=2), "holds a model, and no adapter")
    for name, value in (("nan", math.nan), ("inf", -math.inf)):
        def spoil(t):
            shape, values = t[q + "B.weight"]
            return {**t, q + "B.weight": (shape, array.array("f", [0, value, *values[2:]]))}
        refused(name, {}, f"{q}B.weight': element 1 is {value}", spoil)


def not_numbers():
    """A NaN or an infinity in the model's weights, wherever it is met, is named with its tensor."""
    rows = records("numbers.jsonl", *({"question": f"What is {i}?", "answer": f"number {i}"} for i in range(4)))
    text = scratch / "some.txt"
    text.write_text("Some text, to be read.")
    for tensor, at, value in (("model.layers.0.self_attn.q_proj.weight", 33, math.nan), ("model.norm.weight", 3, math.inf)):
        def spoil(tensors):
            tensors[tensor][1][at] = value
        copy = changed_model(tensor, spoil)
        names = f"weight '{tensor}'", f"holds a NaN or an infinity, at element {at}"
        says(run("ask", "--model", copy, "--threads", 1, "What?", code=2), *names)
        says(run("evaluate", "--model", copy, "--data", rows, "--threads", 1, "--unrelated", text, code=2), *names)
        says(run("train", "--model", copy, "--data", rows, "--out", scratch / "no", "--threads", 1, "--lora-rank", 2, code=2), *names)


def patched(name, *keys):
    """tests/data/models/llama_q4_1.gguf with keys set: (key, number of GGUF's type, value)."""
    file = (root / "tests/data/models/llama_q4_1.gguf").read_bytes()
    version, tensors, count = struct.unpack_from("<IQQ", file, 4)
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

    def end(type, at):
        if type == 8:
            return at + 8 + struct.unpack_from("<Q", file, at)[0]
        if type != 9:
            return at + sizes[type]
        type, n = struct.unpack_from("<IQ", file, at)
        at += 12
        for _ in range(n):
            at = end(type, at)
        return at

    def text(value):
        return struct.pack("<Q", len(value.encode())) + value.encode()

    at, kept = 24, {}
    for _ in range(count):
        begin, at = at, end(8, at)
        key = file[begin + 8:at].decode()
        at = end(struct.unpack_from("<I", file, at)[0], at + 4)
        kept[key] = file[begin:at]
    infos = at
    for _ in range(tensors):
        at = end(8, at)
        at += 4 + 8 * struct.unpack_from("<I", file, at)[0] + 4 + 8
    for key, type, value in keys:
        kept[key] = text(key) + struct.pack("<I", type) + (
            text(value) if type == 8 else struct.pack({4: "<I", 6: "<f", 7: "<B"}[type], value))
    head = file[:8] + struct.pack("<QQ", tensors, len(kept)) + b"".join(kept.values()) + file[infos:at]
    out = scratch / f"{name}.gguf"
    out.write_bytes(head + bytes(-len(head) % 32) + file[(at + 31) // 32 * 32:])
    return out


def gguf():
    """No key of a GGUF that changes the result is passed over: computed, or refused by its name, or told."""
    rows = records("gguf.jsonl", {"question": "What is long enough to have positions that differ?", "answer": "this"})
    report = scratch / "gguf.json"

    def perplexity(name, *keys):
        said = run("evaluate", "--model", patched(name, *keys), "--data", rows, "--threads", 1, "--json", report)
        return json.loads(report.read_text())["base"]["perplexity"], said

    def refused(name, *keys, why=None):
        says(run("ask", "--model", patched(name, *keys), "--threads", 1, "What?", code=2), why or keys[0][0])

    plain, _ = perplexity("same")
    rope = "llama.rope.scaling."
    linear, _ = perplexity("linear", (rope + "type", 8, "linear"), (rope + "factor", 6, 4.0))
    assert linear != plain
    assert perplexity("old", ("llama.rope.scale_linear", 6, 4.0))[0] == linear
    assert perplexity("no_type", (rope + "factor", 6, 4.0))[0] == linear
    unused, said = perplexity("none", (rope + "type", 8, "none"), (rope + "factor", 6, 4.0))
    assert unused == plain
    says(said, "note: ", "llama.rope.scaling.factor 4 is not used")
    yarn, _ = perplexity("yarn", (rope + "type", 8, "yarn"), (rope + "factor", 6, 4.0), (rope + "original_context_length", 4, 2048))
    assert yarn not in (plain, linear)
    refused("dynamic", (rope + "type", 8, "dynamic"), (rope + "factor", 6, 4.0))
    refused("partial", ("llama.rope.dimension_count", 4, 8))
    refused("window", ("llama.attention.sliding_window", 4, 4))
    assert perplexity("mscale", (rope + "attn_factor", 6, 0.5))[0] != plain
    refused("without_architecture", ("rope.scaling.type", 8, "yarn"))
    refused("layout", ("llama.tensor_data_layout", 8, "another"))
    refused("part", ("split.count", 4, 3), why="is one of 3 parts")
    refused("lora", ("general.type", 8, "adapter"), why="holds no model")
    harmless, said = perplexity("harmless", ("llama.tensor_data_layout", 8, "Meta AI original pth"), ("general.url", 8, "x"),
                                ("tokenizer.ggml.eot_token_id", 4, 0), ("somebody.favourite", 4, 7))
    assert harmless == plain
    says(said, "note: ", "keys that ftlib does not know are passed over: somebody.favourite")


def tokens():
    """Ends of text that no tokenizer_config.json names, and tokens that the model has no row for."""
    one = cases / "11-train/one.jsonl"
    train_with = ("train", "--data", one, "--out", scratch / "tokens", "--epochs", 1, "--threads", 1, "--lora-rank", 2, "--model")
    says(run(*train_with, changed_model("eos_null", tokenizer_config={"eos_token": None})),
         "tokenizer_config.json names no eos_token: '<|endoftext|>' is taken, by config.json")
    says(run(*train_with, changed_model("eos_of_two", tokenizer_config={"eos_token": None}, generation_config={"eos_token_id": [2, 0]})),
         "names no eos_token: '<|im_end|>' is taken, by generation_config.json")
    says(run(*train_with, changed_model("no_eos", tokenizer_config={"eos_token": None}, config={"eos_token_id": None}), code=2),
         "names no end-of-text token")
    says(run(*train_with, changed_model("no_bos", tokenizer_config={"bos_token": None, "add_bos_token": True},
                                        config={"bos_token_id": None}), code=2), "no file names it")
    added = json.loads((model / "tokenizer.json").read_text())["added_tokens"]
    far = changed_model("far", tokenizer={"added_tokens": [*added, {**added[0], "content": "<far>", "id": 5000}]})
    says(run("ask", "--model", far, "--threads", 1, "--max-new-tokens", 1, "What?"), "note: ", "2000 rows")
    (far / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<far>"}))
    says(run("ask", "--model", far, "--threads", 1, "What?", code=2), "ends a text with token 5000, '<far>'", "has 2000 rows")


def refused_conversations():
    """A conversation that the template refuses is left out and told, wherever conversations go; the others are used."""
    strict = changed_model("strict", tokenizer_config={"chat_template":
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
        "{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{% if enable_thinking %}{{ tone }}{% endif %}{{ '<|im_start|>assistant\n' }}{% endif %}"})
    talk = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]
    data = records("talks.jsonl", {"id": "good", "messages": talk}, {"id": "bad", "messages": [{"role": "system", "content": "x"}, *talk]},
                   {"id": "better", "messages": [*talk, *talk]})
    why = "record 2 'bad' (", "no system here"
    with_it = ("--model", strict, "--threads", 1)
    said = run("train", *with_it, "--data", data, "--out", scratch / "strict_run", "--form", "chat", "--epochs", 1, "--lora-rank", 2)
    says(said, "data: 2 examples", "warning: of those to learn 1 left out that the chat template refuses: ", *why)
    report = scratch / "strict.json"
    said = run("evaluate", *with_it, "--data", data, "--form", "chat", "--json", report)
    says(said, "on 2 records", "warning: 1 of 3 records cannot be asked and are in no figure; the first: 'bad', ", why[1],
         "warning: the perplexity is of 2 records: 1 left out", *why)
    assert [a["id"] for a in json.loads(report.read_text())["answers"]] == ["good", "better"]
    said = run("prepare", data, "--out", scratch / "talks.out.jsonl", "--model", strict)
    says(said, "warning: of these, training will have 1 left out that the chat template refuses", "  tokens a record")
    only = records("only.jsonl", {"messages": [{"role": "system", "content": "x"}, *talk]})
    says(run("train", *with_it, "--data", only, "--out", scratch / "no", "--form", "chat", code=2),
         "none of 1 records is left", "no system here")
    ask = ("ask", *with_it, "--form", "chat", "--max-new-tokens", 6, "Who?")
    run(*ask, "--thinking", "--variable", "tone=loud")
    says(run(*ask, "--variable", "pitch=high", code=2), "does not read the variable 'pitch'")
    says(run(*ask, "--variable", "tone", code=2), "--variable tone: has no name")
    says(run("ask", *with_it, "--thinking", "Who?", code=2), "the form is qa")


def inputs_stay():
    """Nothing that is read is written over."""
    one = cases / "11-train/one.jsonl"
    copy = changed_model("mine/model")
    says(run("train", "--full", "--model", copy, "--data", one, "--out", scratch / "mine", "--threads", 1, code=2),
         "is to be read and to be written")
    base = ("evaluate", "--model", copy, "--data", one, "--threads", 1, "--json")
    says(run(*base, copy / "config.json", code=2), "is a file of ")
    says(run(*base, scratch / "plain/adapter/adapter_config.json", "--adapter", scratch / "plain/adapter", code=2), "is a file of ")
    gguf = patched("mine")
    says(run("evaluate", "--model", gguf, "--data", one, "--json", gguf, code=2), "is to be read and to be written")
    run(*base, "/dev/null")
    assert Path("/dev/null").is_char_device()
    (scratch / "run_of_link").mkdir()
    (scratch / "run_link").symlink_to("run_of_link")
    train(one, "run_link", "--epochs", 1)
    assert (scratch / "run_link").is_symlink() and (scratch / "run_of_link/adapter/adapter_model.safetensors").exists()
    for name in ("/dev/null", "/dev/null/run", one):
        says(run("train", "--model", scratch / "none", "--data", one, "--out", name, code=2), "is a file, a folder is to be there")
    assert Path("/dev/null").is_char_device()


def full_disk():
    """A full disk: room is asked for first; what was trained or answered is kept elsewhere, and what was there stays."""
    one, disk = cases / "11-train/one.jsonl", scratch / "disk"
    disk.mkdir()
    elsewhere = {**os.environ, "TMPDIR": str(scratch)}
    with open("/dev/full", "w") as full:
        done = subprocess.run([qa, "prepare", one, "--out", scratch / "p.jsonl"], stdout=full, stderr=subprocess.PIPE)
        assert done.returncode == 2 and b"standard output cannot be written to" in done.stderr, done
    report = ("evaluate", "--model", model, "--data", one, "--threads", 1, "--json")
    said = says(run(*report, "/dev/full", code=2, env=elsewhere), "No space left on device", "it was written to ")
    assert json.loads(Path(said.split("it was written to ")[1].split(" instead")[0]).read_text())["base"]["n"] == 1
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", disk], capture_output=True).returncode:
        print("qa: no disk of its own can be mounted here; a full one is tried by its devices alone")
        return
    try:
        to = ("--threads", 1, "--data", one, "--out", disk / "run", "--model", model)
        says(run("train", "--full", *to, code=2), "run/model: needs ", "bytes, the disk has ", "nothing was written")
        assert not (disk / "run").exists()
        run("train", *to, "--epochs", 1, "--lora-rank", 2)
        before = (disk / "run/adapter/adapter_model.safetensors").read_bytes()
        old = scratch / "old.jsonl"
        shutil.copy(one, disk / "old.jsonl")

        def fill():
            with open(disk / "filler", "wb", buffering=0) as filler:
                try:
                    while True:
                        filler.write(bytes(4096))
                except OSError:
                    pass

        (disk / "run/metrics.jsonl").unlink()
        program = subprocess.Popen([qa, "train", *map(str, to), "--epochs", "100000", "--lora-rank", "4"], env=elsewhere,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while program.poll() is None and not ((disk / "run/metrics.jsonl").exists() and (disk / "run/metrics.jsonl").stat().st_size):
            time.sleep(0.01)  # until the first step
        fill()
        said = says(program.communicate()[1], "; what was learned in ", "No space left on device", " instead")
        assert program.returncode == 2
        kept = Path(said.split("it was written to ")[1].split(" instead")[0])
        assert read_tensors(kept / "adapter_model.safetensors")[0]
        run("ask", "--model", model, "--adapter", kept, "--threads", 1, "What?")
        assert (disk / "run/adapter/adapter_model.safetensors").read_bytes() == before
        fill()
        big = records("big.jsonl", *({"question": f"q{i}", "answer": "x" * 500} for i in range(2000)))
        shutil.copy(one, old)
        says(run("prepare", big, "--out", disk / "old.jsonl", code=2), "No space left on device")
        assert (disk / "old.jsonl").read_bytes() == one.read_bytes()
        assert not [p for p in disk.rglob("*") if ".tmp-" in p.name], list(disk.rglob("*"))
    finally:
        subprocess.run(["umount", disk], check=True)


def exported():
    """What was trained leaves as GGUF, as a folder and as a GGUF LoRA, and answers as it did; inputs stay."""
    adapter, out = scratch / "six/adapter", scratch / "exported"
    out.mkdir()
    text = scratch / "weather.txt"
    text.write_text("The weather was fine, and we went out to see the ships. " * 3)
    question = ("--threads", 1, "--max-new-tokens", 12, "What is the colour of number 3?")
    wanted = run("ask", "--model", model, "--adapter", adapter, *question).splitlines()[-1]

    def export(to, name, *more, code=0, with_adapter=True):
        return run("export", "--model", model, *(["--adapter", adapter] if with_adapter else []), "--threads", 1, "--to", to, "--out",
                   out / name, *more, code=code)

    said = says(export("gguf", "f32.gguf", "--type", "f32", "--unrelated", text), "tensors float32", "into 7 tensors", "perplexity of ",
                "the file keeps the chat template alone")
    before, after = map(float, re.search(r": ([\d.]+) before, ([\d.]+) in the file", said).groups())
    assert abs(after / before - 1) < 1e-4, said
    assert run("ask", "--model", out / "f32.gguf", *question).splitlines()[-1] == wanted
    says(export("gguf", "q.gguf", "--type", "Q4_K_M"), "Q5_0", "Q8_0", "no whole number of blocks, and fall back")
    run("ask", "--model", out / "q.gguf", *question)
    again = says(run("export", "--model", out / "q.gguf", "--to", "gguf", "--type", "q8_0", "--out", out / "q8.gguf", "--name", "mine"),
                 "they lose twice")
    assert "merged" not in again, again
    assert b"mine" in (out / "q8.gguf").read_bytes()[:400]
    says(export("hf", "folder"), "a Hugging Face folder in float32, the adapter merged")
    assert run("ask", "--model", out / "folder", *question).splitlines()[-1] == wanted
    says(export("gguf-lora", "lora.gguf"), "adapter: for 7 weights of the base")
    assert run("ask", "--model", model, "--adapter", out / "lora.gguf", *question).splitlines()[-1] == wanted
    says(export("hf", "halves", "--type", "bf16"), "a Hugging Face folder in bfloat16, the adapter merged")
    assert 2 * (out / "halves/model.safetensors").stat().st_size < 1.1 * (out / "folder/model.safetensors").stat().st_size
    run("ask", "--model", out / "halves", *question)
    shutil.rmtree(out / "halves")
    before = (model / "model.safetensors").read_bytes()
    for to, name, more, fault in (
            ("gguf", "x.gguf", ("--type", "q9"), "'q9' is not known"),
            ("gguf-lora", "x.gguf", ("--type", "q8_0"), "an adapter in q8_0"),
            ("gguf-lora", "x.gguf", ("--unrelated", text), "an adapter alone has no perplexity"),
            ("hf", "x", ("--type", "q8_0"), "a folder holds f32, f16 or bf16"),
            ("gguf", "no/such/x.gguf", (), "there is no folder")):
        says(export(to, name, *more, code=2), fault)
    says(export("gguf-lora", "x.gguf", code=2, with_adapter=False), "there is no adapter")
    for taken in (model / "model.safetensors", adapter / "adapter_model.safetensors", text):
        says(run("export", "--model", model, "--adapter", adapter, "--unrelated", text, "--to", "gguf", "--out", taken, code=2),
             "is read" if taken != text else "is to be read and to be written")
    says(run("export", "--model", model, "--to", "hf", "--out", model, code=2), "is to be read and to be written")
    assert (model / "model.safetensors").read_bytes() == before
    assert sorted(p.name for p in out.iterdir()) == ["f32.gguf", "folder", "lora.gguf", "q.gguf", "q8.gguf"]


def quantised_base():
    """A dense base is quantised once, by its content, and the adapter is the dense model's all the same."""
    dense, data = scratch / "dense", cases / "11-train/four.jsonl"
    shutil.copytree(model, dense)

    def learn(kind, out, *more, code=0):
        return run("train", "--model", dense, "--data", data, "--out", scratch / out, "--threads", 1, "--samples", 1, "--lora-rank", 2,
                   "--max-steps", 2, "--keep-weight", 0, "--quantise-base", kind, *more, code=code)

    says(learn("q8_0", "over8"), "base: quantised once, and kept for the next run: ", "tensors Q8_0", "Q8_0 73")
    made = list(scratch.glob("dense.q8_0-*.gguf"))
    assert len(made) == 1, made
    says(learn("q8_0", "again8"), f"base: {made[0]}, quantised before from this very ")
    config = json.loads((scratch / "over8/adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(dense), config
    said = run("ask", "--model", dense, "--adapter", scratch / "over8/adapter", "--threads", 1, "--max-new-tokens", 4, "What?")
    assert "warning" not in said, said
    says(learn("q4_0", "over4"), "tensors Q4_0")
    says(learn("nf4", "overn"), "base: quantised once", "rows that are no whole number of blocks, and fall back")
    tensors, metadata = read_tensors(dense / "model.safetensors")
    shape, values = tensors["model.norm.weight"]
    write_tensors(dense / "model.safetensors", tensors | {"model.norm.weight": (shape, array.array("f", [2 * v for v in values]))}, metadata)
    says(learn("q8_0", "other8"), "base: quantised once")  # another model of the same name
    assert len(list(scratch.glob("dense.q8_0-*.gguf"))) == 2
    says(run("train", "--model", dense, "--data", data, "--out", scratch / "no", "--full", "--quantise-base", "q8_0", code=2),
         "--quantise-base: with --full")


try:
    make_model()
    for case in (few_records, kept_and_withheld, splits, long_ones, forms, scores, asked_first, numbers_and_blanks, lines_alone, targets, outputs, conversations, preferences,
                 templates, adapters, not_numbers, gguf, exported, quantised_base, tokens, refused_conversations, inputs_stay, full_disk):
        case()
    print("qa: all cases are right")
finally:
    shutil.rmtree(scratch)
