#!/usr/bin/env python3
"""Write tests/data/tokenizer/: strings, small tokenizers, and the ids that the reference tokenizers give.

    tools/make_tokenizer_fixtures.py --models FOLDER     needs tokenizers, sentencepiece, tiktoken, mistral-common, gguf,
                     llama-cpp-python
    tools/make_tokenizer_fixtures.py --only CASE... [--models FOLDER]   these cases, on the strings and small tokenizers as
                     they are; those of REAL, and Qwen2, are of FOLDER's files (tools/fetch_vocabulary.py)

FOLDER holds SmolLM2-135M-Instruct.Q4_1.gguf, gemma-3-270m-Q4_K_M.gguf and what tools/fetch_vocabulary.py fetches. References: Hugging Face's tokenizers for
tokenizer.json and for SmolLM2 (from the GGUF's tokens and merges), SentencePiece for scored vocabularies and for Gemma
(a SentencePiece model from the GGUF's tokens, scores and types); tiktoken, mistral-common and SentencePiece for files of
theirs. llama.cpp's ids are compared with both and reported.

Strings that are not valid UTF-8 are {"hex": ...}; the references read them as bytes.decode("utf-8", "replace").
Ids are written as two or three base-64 digits each, most significant first, or of each string a digest.
"""
import argparse
import json
import pathlib
import random
import tempfile
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/data/tokenizer"
DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = TEKKEN.replace(r"\p{M}]+|", r"\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|").replace(
    r"\p{M}]*|", r"\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|").replace(r"|\p{N}|", r"|\p{N}{1,3}|")
LANGUAGES = {
    "english": ["What is the highest mountain on Earth?", "Water boils at 100 degrees Celsius at sea level.",
                "I can't believe they've finished; we'll see if she's right, won't we?",
                "The quick brown fox jumps over the lazy dog."],
    "german": ["Die größte Stadt an der Küste heißt anders.", "Über den Wolken muß die Freiheit wohl grenzenlos sein?"],
    "french": ["L'été dernier, où êtes-vous allés ?", "Ça coûte 12,50 € à l'hôtel près du fleuve."],
    "vietnamese": ["Thủ đô của Việt Nam là Hà Nội.", "Ngọn núi cao nhất thế giới tên là gì?"],
    "turkish": ["İstanbul'da yağmur yağıyor mu?", "Işık hızı saniyede kaç kilometredir?"],
    "greek": ["Ποιο είναι το ψηλότερο βουνό της Γης;", "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας."],
    "cyrillic": ["Какая самая высокая гора на Земле?", "Київ стоїть на берегах Дніпра.", "Съешь ещё этих мягких булок."],
    "hangul": ["지구에서 가장 높은 산은 무엇인가요?", "태양계에서 가장 큰 행성은 무엇인가요?", "물은 몇 도에서 끓나요? 100도입니다.",
               "오늘은 비가 와서 집에 있었어요."],
    "han": ["地球上最高的山是什么？", "太陽系中最大的行星是木星。", "北京是中华人民共和国的首都，有两千多万人口。"],
    "kana": ["地球で一番高い山は何ですか？", "コーヒーとケーキを二つください。", "ｶﾀｶﾅとひらがなを書きます。"],
    "arabic": ["ما هو أعلى جبل على وجه الأرض؟", "عاصمة مصر هي القاهرة، وعدد سكانها ٢٠ مليونًا.", "بِسْمِ ٱللَّهِ"],
    "hebrew": ["מהו ההר הגבוה ביותר בעולם?", "יְרוּשָׁלַיִם היא עיר עתיקה."],
    "devanagari": ["पृथ्वी का सबसे ऊँचा पर्वत कौन सा है?", "भारत की राजधानी नई दिल्ली है।", "१२३ किताबें"],
    "bengali": ["বাংলাদেশের রাজধানী ঢাকা।", "আমি ভাত খাই।"],
    "tamil": ["உலகின் மிக உயரமான மலை எது?", "சென்னை தமிழ்நாட்டின் தலைநகரம்."],
    "thai": ["ภูเขาที่สูงที่สุดในโลกคืออะไร", "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย"],
    "georgian": ["რომელია მსოფლიოში უმაღლესი მთა?", "თბილისი საქართველოს დედაქალაქია."],
    "armenian": ["Երևանը Հայաստանի մայրաքաղաքն է։"],
    "ethiopic": ["አዲስ አበባ የኢትዮጵያ ዋና ከተማ ናት።"],
    "khmer": ["ភ្នំពេញជារាជធានីនៃប្រទេសកម្ពុជា។"],
}
BLOCKS = [(0x20, 0x7F), (0xA0, 0x24F), (0x250, 0x2FF), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F), (0x531, 0x58F),
          (0x591, 0x5F4), (0x600, 0x6FF), (0x900, 0x97F), (0x980, 0x9FE), (0xB82, 0xBFA), (0xE01, 0xE5B),
          (0xF00, 0xFDA), (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1200, 0x137C), (0x1780, 0x17F9), (0x1D00, 0x1DBF),
          (0x1E00, 0x1FFE), (0x2000, 0x206F), (0x2070, 0x209C), (0x20A0, 0x20C0), (0x2100, 0x218B), (0x2190, 0x23FF),
          (0x2460, 0x24FF), (0x2580, 0x259F), (0x2C00, 0x2C5F), (0x3000, 0x303F), (0x3041, 0x30FF), (0x3131, 0x318E),
          (0x3200, 0x33FF), (0x4E00, 0x9FFF), (0xA000, 0xA48C), (0xAC00, 0xD7A3), (0xF900, 0xFAD9), (0xFE00, 0xFE0F),
          (0xFF01, 0xFFEF), (0x10330, 0x1034A), (0x12000, 0x12399), (0x1D400, 0x1D7FF), (0x1F300, 0x1F64F),
          (0x1F900, 0x1F9FF), (0x20000, 0x2A6DF), (0x30000, 0x3134A), (0xE0100, 0xE01EF), (0xF0000, 0xF00FF)]
EMOJI = ["😀", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇰🇷", "🇩🇪🇫🇷", "1️⃣", "❤️", "🧑🏿‍🚀", "🤷‍♀️", "👨‍💻", "☺", "☺️", "🫠", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"]
CODE = ["for (int i = 0; i < n; ++i) {\n\tsum += a[i]*b[i];\n}\n", "def f(x):\n    return x**2 + 3*x - 1  # quadratic\n",
        "if err != nil {\n\t\treturn fmt.Errorf(\"open %q: %w\", name, err)\n\t}", "SELECT * FROM t WHERE id IN (1,2,3);",
        "<div class=\"row\"><b>bold</b>&nbsp;<table><tr><td>1</td></tr></table></div>", "x = {'a': [1, 2.5e-3], \"b\": None}",
        "#include <vector>\r\n#define MAX(a,b) ((a)>(b)?(a):(b))\r\n", "https://example.org/a/b?c=d&e=%20f#g", "C:\\Users\\me\\file.txt",
        "λx. x → ∀y∈ℝ: y²≥0", "$ make -j4 2>&1 | tee log.txt", "    \treturn;\n\n\n\n}", "fn main() -> Result<(), Box<dyn Error>> {",
        "user@example.com, +49-89-1234567", "{\"key\": \"v\\u00e4lue\\n\"}", "a_b_c->d::e<f>() && !g || h ^ ~i"]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<bos>", "<eos>", "<pad>", "<unk>", "<s>", "</s>", "<mask>", "<word>",
            "<rs>", "<norm>", "<start_of_turn>", "<end_of_turn>", "<table>", "</h1>", "[multimodal]", "<unused7>", "<0x0A>",
            "<|im_", "<|im_end|", "<end_of_turn", "▁", "▁▁", "▁the", "Ġthe", "<|begin_of_text|>", "<|eot_id|>"]
WHITE = [" ", " ", " ", "\n", "\n", "\t", "\r\n", "\r", "\u00a0", "\u3000", "\u2003", "\u0085", "\u2028", "\u200b", "\v", "\f"]
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "'Re", "'vE", "'", "''", "’s", "'x", "'lx", "'r", "'ſ", "'1"]


def make_strings(rng):
    """At least 2,000 strings: sentences, mixtures of their words, characters of many blocks, spaces, broken UTF-8."""
    sentences = [s for group in LANGUAGES.values() for s in group]
    pieces = {name: [w for s in group for w in s.split()] for name, group in LANGUAGES.items()}
    for name in ("han", "kana", "thai", "khmer"):
        long = "".join(LANGUAGES[name])
        pieces[name] = [long[i:i + rng.randint(1, 6)] for i in range(0, len(long), 3)]
    names = list(pieces)

    def word():
        return rng.choice(pieces[rng.choice(names)])

    def number():
        return rng.choice([str(rng.randint(0, 10 ** rng.randint(1, 12))), f"{rng.uniform(-1e3, 1e3):.{rng.randint(0, 5)}f}",
                           "１２３", "٣٤٥", "Ⅷ", "x²", "½", "③", "1,234,567.89", "3.14e-10", "2024-02-29", "𝟘𝟙", "१०"])

    def white():
        return "".join(rng.choice(WHITE) for _ in range(rng.randint(1, 5)))

    def character():
        while True:
            c = chr(rng.randint(*rng.choice(BLOCKS)))
            if unicodedata.category(c) not in ("Cn", "Cs") or 0xF0000 <= ord(c):  # assigned in Python's Unicode
                return c

    strings = ["", " ", "  ", "\n", "a", "é", "e\u0301", "가", "각", "\ufeff", "\0", "a\0b", "\x7f", "\x1b[0m"]
    strings += sentences + EMOJI + CODE + SPECIALS + CONTRACTIONS
    strings += [" " + s for s in sentences] + [unicodedata.normalize("NFD", s) for s in sentences]
    strings += [s.upper() for s in sentences] + [s.replace(" ", "") for s in sentences[:8]]
    for n in list(range(2, 40)) + [63, 64, 65, 100]:
        strings += [" " * n, "a" + " " * n + "b", "\n" * n + "c"] + (["\t" * n + "1", "\r\n" * n] if n % 3 == 0 else [])
    strings += ["a" * n for n in (15, 31, 32, 33, 34, 64, 200)] + ["ab" * 40, "the" * 30, "\u0e01" * 25, "가나" * 20, "=" * 70, "'" * 9]
    for name in names:
        for _ in range(34):
            strings.append(" ".join(rng.choice(pieces[name]) for _ in range(rng.randint(2, 7))) + rng.choice(["", ".", "?", "!\n", " "]))
    for _ in range(280):
        kinds = [word, word, word, number, white, character, lambda: rng.choice(EMOJI), lambda: rng.choice(CONTRACTIONS)]
        strings.append("".join(rng.choice(kinds)() for _ in range(rng.randint(3, 9))))
    for _ in range(140):
        strings.append("".join(character() for _ in range(rng.randint(1, 10))))
    for _ in range(110):
        strings.append(white().join([word(), number(), word()]) + white())
    for _ in range(110):
        strings.append("".join(rng.choice([word(), rng.choice(CONTRACTIONS), " ", word() + rng.choice(CONTRACTIONS)]) for _ in range(5)))
    for _ in range(130):
        strings.append("".join(rng.choice([rng.choice(SPECIALS), rng.choice(SPECIALS), word(), white(), " "]) for _ in range(rng.randint(2, 6))))
    for _ in range(60):
        code = rng.choice(CODE) + rng.choice(CODE)
        at = rng.randrange(len(code))
        strings.append(code[at:at + rng.randint(5, 50)])
    raw = [s.encode() for s in dict.fromkeys(strings)]
    broken = [b"\xff", b"\x80", b"\xc0\xaf", b"\xe2\x82", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x9f\x98", b"a\xe2\x28\xa1b",
              b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xf8\x88\x80\x80\x80", b"x\xc3", b"\xc3\x28", b"\xef\xbf\xbd\xff"]
    for _ in range(170):
        data = bytearray(" ".join([word(), word(), rng.choice(EMOJI)]).encode())
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data))
            rng.choice([lambda: data.__setitem__(at, rng.randrange(256)), lambda: data.__delitem__(at),
                        lambda: data.insert(at, rng.choice([0x80, 0xBF, 0xC2, 0xE2, 0xF0, 0xFF]))])()
            if not data:
                data = bytearray(b"\xe2")
        broken.append(bytes(data))
    broken += [bytes(rng.randrange(256) for _ in range(rng.randint(1, 16))) for _ in range(60)]
    return raw + [b for b in dict.fromkeys(broken) if b not in raw]


def pack(ids, width):
    return "".join(DIGITS[i >> 6 * k & 63] for i in ids for k in reversed(range(width)))


def decoded(tokenizer, texts, ids):
    """What decoding gives, where it is not the text (U+2581 becomes a space)."""
    back = [tokenizer.decode(i, skip_special_tokens=False) for i in ids]
    return {k: b for k, (t, b) in enumerate(zip(texts, back)) if t.replace("▁", " ") != b.replace("▁", " ")}


def train(texts, model, size, pre, normalizer, special, alphabet, limit=1_000_000):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet,
                                                             limit_alphabet=limit, show_progress=False, max_token_length=24))
    return tokenizer


def qwen2(texts, alphabet):
    """Single digits, NFC; and added tokens that are sought before and after NFC."""
    made = train(texts, models.BPE(), 2000,
                 pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"),
                                          pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
                 normalizers.NFC(), [], alphabet)
    made.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    made.add_tokens([AddedToken("<word>", single_word=True, normalized=False), AddedToken(unicodedata.normalize("NFD", "가장"), normalized=True)])
    made.decoder = decoders.ByteLevel()
    return made


def small_tokenizers(texts):
    """A tokenizer.json a family, trained on the strings, as name -> Tokenizer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    out = {}
    gpt2 = train(texts, models.BPE(), 2000, byte_level, None, ["<|endoftext|>"], alphabet)
    gpt2.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True), AddedToken("<norm>", normalized=True, special=True)])
    gpt2.add_tokens([AddedToken("<word>", single_word=True, normalized=False), AddedToken("<rs>", rstrip=True, normalized=False)])
    gpt2.decoder = decoders.ByteLevel()
    out["gpt2"] = gpt2
    # Like the real one, SmolLM2's lacks bytes: they are dropped.
    some = [c for c in alphabet if c not in "ÿþýüûúùø÷öõÁÀ"]
    smollm = train(texts, models.BPE(), 2000, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level]), None,
                   ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], some)
    smollm.decoder = decoders.ByteLevel()
    out["smollm"] = smollm
    llama3 = train(texts, models.BPE(ignore_merges=True), 2000,
                   pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                                            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]), None, [], alphabet)
    llama3.add_special_tokens(["<|begin_of_text|>", "<|eot_id|>"])
    llama3.decoder = decoders.ByteLevel()
    out["llama3"] = llama3

    out["qwen2"] = qwen2(texts, alphabet)

    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    spaces = normalizers.Replace(" ", "▁")
    letters = sorted({c for t in texts for c in t if c.isalnum() and ord(c) < 0x3000})

    def with_bytes(special, pre, normalizer, size):
        first = train(texts, models.BPE(), size, pre, normalizer, special + bytes_, letters[:300], 500)
        state = json.loads(first.to_str())["model"]
        return Tokenizer(models.BPE(state["vocab"], [tuple(m) for m in state["merges"]], unk_token="<unk>", fuse_unk=True, byte_fallback=True))

    user = ["[multimodal]", "<table>", "</h1>", "\t"] + ["\n" * n for n in range(1, 8)] + ["▁" * n for n in range(2, 8)]
    gemma = with_bytes(["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"] + user,
                       pre_tokenizers.Metaspace(prepend_scheme="never"), spaces, 2600)
    gemma.normalizer = spaces
    gemma.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    gemma.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    gemma.add_special_tokens([AddedToken(t, normalized=False, special=True)
                              for t in ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")])
    gemma.add_tokens([AddedToken(t, normalized=False) for t in user])
    out["gemma"] = gemma
    # Trained across words, so that tokens hold spaces inside: the hard case for cutting text before spaces.
    prepend = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
    llama2 = with_bytes(["<unk>", "<s>", "</s>"], pre_tokenizers.Split(Regex(r"\n"), "isolated"), prepend, 2600)
    llama2.pre_tokenizer = None
    llama2.normalizer = prepend
    llama2.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    llama2.add_special_tokens([AddedToken("<unk>", normalized=False, special=True), AddedToken("<s>", normalized=False, special=True),
                               AddedToken("</s>", normalized=True, special=True)])
    out["llama2"] = llama2
    return out


def words(regex, behavior="Isolated"):
    """A merge patch: another pattern."""
    return {"pre_tokenizer": {"pretokenizers": [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": behavior == "Removed"},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}}


DIGESTS = {"qwen35", "cl100k", "gpt4o", "gpt4o, merges", "tekken"}
VARIANTS = [  # name, file, merge patch (RFC 7386) of the file, special tokens as text
    ("qwen35", "qwen2", words(QWEN35), False),
    ("cl100k", "llama3", words(CL100K), False),
    ("gpt4o", "llama3", words(GPT4O), False),
    ("gpt4o, merges", "llama3", words(GPT4O, "Removed") | {"model": {"ignore_merges": False}}, False),
    ("tekken", "llama3", words(TEKKEN), False),
    ("gpt2", "gpt2", {}, False),
    ("gpt2, as text", "gpt2", {}, True),
    ("gpt2, prefix space", "gpt2", {"pre_tokenizer": {"add_prefix_space": True}}, False),
    ("gpt2, runs of digits", "gpt2", {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]}}, False),
    ("smollm", "smollm", {}, False),
    ("llama3", "llama3", {}, False),
    ("qwen2", "qwen2", {}, False),
    ("qwen2, as text", "qwen2", {}, True),
    ("llama3, merges", "llama3", {"model": {"ignore_merges": False}}, False),
    ("gemma", "gemma", {}, False),
    ("gemma, as text", "gemma", {}, True),
    ("gemma, unknown fused", "gemma", {"model": {"byte_fallback": False}}, False),
    ("gemma, unknown each", "gemma", {"model": {"byte_fallback": False, "fuse_unk": False}}, False),
    ("llama2", "llama2", {}, False),
    ("llama2, Metaspace first", "llama2", {"normalizer": None, "pre_tokenizer": {
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}}, False),
    ("llama2, Metaspace split", "llama2", {"normalizer": None, "pre_tokenizer": {
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}}, False),
]


def merge_patch(target, patch):
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merge_patch(target.get(key), value)
    return target


def sentencepiece_of(tokens, scores, types, dummy_prefix=False):
    """SentencePiece on a vocabulary. Control tokens and the unknown one are user-defined, so that they are parsed."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    for token, score, kind in zip(tokens, scores, types):
        if kind == 4:
            token = token.replace(" ", "▁")  # GGUF has these with spaces
        proto.pieces.add(piece=token, score=score, type=4 if kind in (2, 3) else kind)
    proto.pieces.add(piece="the unknown piece that SentencePiece asks for", score=-1e6, type=2)
    proto.trainer_spec.model_type = 2
    proto.trainer_spec.byte_fallback = True
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = dummy_prefix
    proto.normalizer_spec.remove_extra_whitespaces = False
    proto.normalizer_spec.escape_whitespaces = True
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(proto.SerializeToString())
    return processor


def small_sentencepiece(texts):
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    with tempfile.TemporaryDirectory() as folder:
        corpus = pathlib.Path(folder, "text")
        corpus.write_text("\n".join(t for t in texts if "\n" not in t and "\0" not in t and "▁" not in t), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.Train(
            input=str(corpus), model_prefix=f"{folder}/m", model_type="bpe", vocab_size=2600, byte_fallback=True, character_coverage=0.98,
            normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False, unk_id=3, bos_id=2, eos_id=1, pad_id=0,
            control_symbols=["<start_of_turn>", "<end_of_turn>"], minloglevel=2, allow_whitespace_only_pieces=True, num_threads=1,
            user_defined_symbols=["[multimodal]", "<table>", "</h1>", "\t"] + ["\n" * n for n in range(1, 8)] + ["▁" * n for n in range(2, 8)])
        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString(pathlib.Path(folder, "m.model").read_bytes())
    return [p.piece for p in proto.pieces], [p.score for p in proto.pieces], [p.type for p in proto.pieces]


def gguf_fields(path):
    import gguf

    reader = gguf.GGUFReader(path)
    return {k.removeprefix("tokenizer.ggml."): f.contents() for k, f in reader.fields.items() if k.startswith("tokenizer.")}


def smollm2(fields):
    vocab = {t: i for i, t in enumerate(fields["tokens"])}
    tokenizer = Tokenizer(models.BPE(vocab, [tuple(m.split(" ")) for m in fields["merges"]]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([t for t, kind in zip(fields["tokens"], fields["token_type"]) if kind == 3])
    return tokenizer


def compare_llama_cpp(path, raw, expected):
    import llama_cpp

    llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    other = [i for i, (data, ids) in enumerate(zip(raw, expected))
             if llama.tokenize(data.decode("utf-8", "replace").encode(), add_bos=False, special=True) != ids]
    print(f"{path.name}: llama.cpp differs on {len(other)} of {len(raw)} strings")
    for i in other[:12]:
        text = raw[i].decode("utf-8", "replace")
        print("   ", ascii(text)[:80], expected[i][:12], llama.tokenize(text.encode(), add_bos=False, special=True)[:12])


def write(name, value):
    (OUT / name).write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def read_strings():
    return [bytes.fromhex(s["hex"]) if isinstance(s, dict) else s.encode() for s in json.loads((OUT / "strings.json").read_text())]


def digest(ids):
    """FNV-1a of the ids' four bytes each, as six base-64 digits."""
    value = 0x811C9DC5
    for byte in b"".join(i.to_bytes(4, "little") for i in ids):
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return pack([value], 6)


def case(name, ids, width=0, **more):
    """Ids of `width` digits; 0: a digest for each string, which is a tenth as long."""
    print(f"{name}: {sum(map(len, ids))} ids")
    if not width:
        return {"name": name, **more, "digests": "".join(map(digest, ids))}
    return {"name": name, **more, "width": width, "ids": [pack(i, width) for i in ids]}


def variants(files, texts, only=None):
    for name, file, patch, as_text in VARIANTS:
        if only is not None and name not in only:
            continue
        tokenizer = Tokenizer.from_str(json.dumps(merge_patch(files[file], patch)))
        tokenizer.encode_special_tokens = as_text
        ids = [tokenizer.encode(t, add_special_tokens=False).ids for t in texts]
        yield case(name, ids, 0 if name in DIGESTS else 2, file=f"{file}.json", patch=patch, as_text=as_text,
                   decoded=decoded(tokenizer, texts, ids))


def write_cases(cases):
    with open(OUT / "expected.json", "w", encoding="utf-8") as file:  # a case a line
        file.write("[\n" + ",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in cases) + "\n]\n")


def qwen2_real(fields):
    """Qwen2's tokenizer.json, from a GGUF's tokens and merges."""
    vocab = {t: i for i, (t, kind) in enumerate(zip(fields["tokens"], fields["token_type"])) if kind == 1}
    made = Tokenizer(models.BPE(vocab, [tuple(m.split(" ")) for m in fields["merges"]]))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"),
                                                  pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    for token, kind in zip(fields["tokens"], fields["token_type"]):  # behind the others, in order: they get their own ids
        if kind in (3, 4):
            made.add_tokens([AddedToken(token, normalized=False, special=kind == 3)])
    return made


MODELS = {  # what SentencePiece is to train; the normalizer of the first is the one that T5 and XLM-R have, and of the second of RULES
    "unigram": dict(model_type="unigram", vocab_size=2000, character_coverage=0.99, pad_id=3, control_symbols=["<control>"],
                    user_defined_symbols=["[multimodal]", "\n", "<table>", "①②", "  "]),
    "bpe": dict(model_type="bpe", vocab_size=1500, character_coverage=0.98, byte_fallback=True,
                user_defined_symbols=["[multimodal]", "\n", "▁▁▁", "A!"]),
    "bytes": dict(model_type="unigram", vocab_size=1500, character_coverage=0.98, byte_fallback=True, remove_extra_whitespaces=False,
                  normalization_rule_name="identity", add_dummy_prefix=False, user_defined_symbols=["\n", "<table>"]),
}
RULES = ("41 30A\t61 30A\n41\t61\n2162\t56 49 49 49\n200B\t\n9\t20\n3000\t20\n1F600\t3A 29\nAC00 B098\t6B 61 6E 61\n")


def train_models(texts):
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    with tempfile.TemporaryDirectory() as folder:
        corpus, rules = pathlib.Path(folder, "text"), pathlib.Path(folder, "rules.tsv")
        corpus.write_text("\n".join(t for t in texts if "\n" not in t and "\0" not in t and "▁" not in t), encoding="utf-8")
        rules.write_text(RULES)
        for name, options in MODELS.items():
            more = {"normalization_rule_tsv": str(rules)} if name == "bpe" else {}
            sentencepiece.SentencePieceTrainer.Train(input=str(corpus), model_prefix=f"{folder}/m", minloglevel=2, num_threads=1,
                                                     hard_vocab_limit=False, **options, **more)
            proto = sentencepiece_model_pb2.ModelProto()
            proto.ParseFromString(pathlib.Path(folder, "m.model").read_bytes())
            for field in ("input", "model_prefix"):
                proto.trainer_spec.ClearField(field)
            proto.normalizer_spec.ClearField("normalization_rule_tsv")
            (OUT / f"{name}.model").write_bytes(proto.SerializeToString())


def sentencepiece_case(name, path, texts, processor=None, **more):
    """Decoded text is not compared where SentencePiece has a sign for unknown text in it."""
    import sentencepiece

    processor = processor or sentencepiece.SentencePieceProcessor(model_file=str(path))
    ids = [processor.EncodeAsIds(t) for t in texts]
    back = {k: None if processor.unk_id() in i else processor.DecodeIds(i) for k, i in enumerate(ids)}
    return case(name, ids, model=path.name, as_text=True, **more,
                decoded={k: b for k, b in back.items() if b is None or b.replace("▁", " ") != texts[k].replace("▁", " ")})


def t5_gguf_case(name, folder, texts):
    """The second unigram model with the BPE model's rules, in llama.cpp's form (conversion/t5.py) and in SentencePiece's."""
    import gguf
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    proto, other = sentencepiece_model_pb2.ModelProto(), sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((folder / "bytes.model").read_bytes())
    other.ParseFromString((folder / "bpe.model").read_bytes())
    proto.normalizer_spec.CopyFrom(other.normalizer_spec)
    proto.trainer_spec.byte_fallback = False
    for piece in [p for p in proto.pieces if p.type == 6]:
        proto.pieces.remove(piece)
    path = folder / "t5.gguf"
    writer = gguf.GGUFWriter(path, "t5")
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([p.piece for p in proto.pieces])
    writer.add_token_scores([p.score for p in proto.pieces])
    writer.add_token_types([p.type for p in proto.pieces])
    writer.add_add_space_prefix(True)
    writer.add_remove_extra_whitespaces(True)
    writer.add_precompiled_charsmap(proto.normalizer_spec.precompiled_charsmap)
    writer.add_unk_token_id(0)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    return sentencepiece_case(name, path, texts, processor)


def converted_case(name, path, texts, split, pre, patch, **more):
    """A unigram model as transformers makes a tokenizer.json of it (convert_slow_tokenizer.py)."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(path.read_bytes())
    made = Tokenizer(models.Unigram([(p.piece, p.score) for p in proto.pieces], proto.trainer_spec.unk_id, proto.trainer_spec.byte_fallback))
    made.normalizer = normalizers.Sequence([normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)] + split)
    made.pre_tokenizer = pre
    made.decoder = decoders.Metaspace()
    for piece in proto.pieces:
        if piece.type in (2, 3, 4):
            made.add_tokens([AddedToken(piece.piece, normalized=False, special=piece.type != 4)])
    ids = [made.encode(t, add_special_tokens=False).ids for t in texts]
    return case(name, ids, model=path.name, convert=patch, **more, decoded=decoded(made, texts, ids))


def ranks_case(name, path, texts, pattern, special, nfc=False):
    import base64

    import tiktoken

    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in path.read_bytes().splitlines() if line)}
    made = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={t: len(ranks) + i for i, t in enumerate(special)})
    ids = [made.encode(unicodedata.normalize("NFC", t) if nfc else t, allowed_special="all") for t in texts]
    back = [made.decode(i) for i in ids]
    return case(name, ids, model=path.name, real=True, decoded={k: b for k, b in enumerate(back) if b != texts[k]})


def tekken_case(name, path, texts):
    from mistral_common.tokens.tokenizers.tekken import SpecialTokenPolicy, Tekkenizer

    made = Tekkenizer.from_file(path)
    ids = [made.encode(t, False, False) for t in texts]
    back = [made.decode(i, SpecialTokenPolicy.KEEP) for i in ids]
    return case(name, ids, model=path.name, real=True, as_text=True, decoded={k: b for k, b in enumerate(back) if b != texts[k]})


def numbered(text, first, count):
    return [text.replace("#", str(i)) for i in range(first, first + count)]


LLAMA3_SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", *numbered("<|reserved_special_token_#|>", 0, 2), "<|finetune_right_pad_id|>",
                  "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>", "<|image|>",
                  *numbered("<|reserved_special_token_#|>", 2, 244)]
LLAMA4_SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"]  # of 2,048
QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *numbered("<|extra_#|>", 0, 205)]
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
CASES = {  # name: of a file in tests/data/tokenizer, or where it says `real` in --models
    **{name: lambda path, texts, name=name: sentencepiece_case(name, path / f"{name}.model", texts) for name in MODELS},
    "t5, GGUF": lambda path, texts: t5_gguf_case("t5, GGUF", path, texts),
    "t5": lambda path, texts: converted_case(
        "t5", path / "unigram.model", texts, [normalizers.Strip(left=False), normalizers.Replace(Regex(" {2,}"), "▁")],
        pre_tokenizers.Metaspace(prepend_scheme="always", split=False), {}),
    "xlm-r": lambda path, texts: converted_case(
        "xlm-r", path / "unigram.model", texts, [],
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]),
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]}}, rules_alone=True),
}
REAL = {
    "Llama 3": lambda path, texts: ranks_case("Llama 3", path / "llama3.tokenizer.model", texts, LLAMA3, LLAMA3_SPECIAL),
    "Llama 4": lambda path, texts: ranks_case("Llama 4", path / "llama4.tokenizer.model", texts, GPT4O, LLAMA4_SPECIAL),
    "Qwen, ranks": lambda path, texts: ranks_case("Qwen, ranks", path / "qwen.tiktoken", texts, QWEN2, QWEN_SPECIAL, nfc=True),
    "Mistral NeMo": lambda path, texts: tekken_case("Mistral NeMo", path / "tekken_240718.json", texts),
    "Pixtral": lambda path, texts: tekken_case("Pixtral", path / "tekken_240911.json", texts),
    **{f"Mistral {v}": lambda path, texts, v=v: sentencepiece_case(f"Mistral {v}", path / f"mistral-{v}.model", texts, real=True)
       for v in ("v1", "v3", "v7")},
}


def make_only(names, folder):
    """The named cases anew, on the strings and small tokenizers as they are."""
    texts = [data.decode("utf-8", "replace") for data in read_strings()]
    files = {path.stem: json.loads(path.read_text()) for path in OUT.glob("*.json")}
    made = list(variants(files, texts, names))
    made += [make(OUT, texts) for name, make in CASES.items() if name in names]
    made += [make(folder, texts) for name, make in REAL.items() if name in names]
    if "Qwen2" in names:
        path = folder / "qwen2-vocabulary.gguf"
        real = qwen2_real(gguf_fields(path))
        ids = [real.encode(t, add_special_tokens=False).ids for t in texts]
        made.append(case("Qwen2", ids, 3, gguf=path.name, decoded=decoded(real, texts, ids)))
    if unknown := set(names) - {c["name"] for c in made}:
        raise SystemExit(f"no such case: {', '.join(sorted(unknown))}")
    cases = {c["name"]: c for c in files["expected"]} | {c["name"]: c for c in made}
    write_cases(list(cases.values()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=pathlib.Path)
    parser.add_argument("--only", nargs="+", metavar="CASE")
    args = parser.parse_args()
    if args.only:
        return make_only(args.only, args.models)
    if not args.models:
        parser.error("--models FOLDER is needed")
    folder = args.models
    OUT.mkdir(parents=True, exist_ok=True)
    raw = make_strings(random.Random(20240607))
    texts = [data.decode("utf-8", "replace") for data in raw]

    stored = []
    for data in raw:
        try:
            stored.append(data.decode())
        except UnicodeDecodeError:
            stored.append({"hex": data.hex()})
    write("strings.json", stored)

    cases = []

    def add(name, ids, width, **more):
        cases.append(case(name, ids, width, **more))

    files = {}
    for name, tokenizer in small_tokenizers(texts).items():
        files[name] = json.loads(tokenizer.to_str())
        write(f"{name}.json", files[name])
    cases += variants(files, texts)
    tokens, scores, types = small_sentencepiece(texts)
    write("sentencepiece.json", {"tokens": tokens, "scores": scores, "types": types})
    for prefix in (False, True):
        processor = sentencepiece_of(tokens, scores, types, prefix)
        if prefix:  # user-defined symbols would get no prefix after them here, and get one from llama.cpp
            keep = [i for i, t in enumerate(texts) if not any(tokens[k] in t.replace(" ", "▁") for k, kind in enumerate(types) if kind in (2, 3, 4))]
            add("sentencepiece, prefix", [processor.EncodeAsIds(texts[i]) for i in keep], 2, spec="sentencepiece.json", prefix=True, only=keep)
        else:
            add("sentencepiece", [processor.EncodeAsIds(t) for t in texts], 2, spec="sentencepiece.json")

    path = folder / "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer = smollm2(gguf_fields(path))
    ids = [tokenizer.encode(t).ids for t in texts]
    add("SmolLM2", ids, 3, gguf=path.name, decoded=decoded(tokenizer, texts, ids))
    compare_llama_cpp(path, raw, ids)

    path = folder / "gemma-3-270m-Q4_K_M.gguf"
    fields = gguf_fields(path)
    processor = sentencepiece_of(fields["tokens"], fields["scores"], fields["token_type"])
    ids = [processor.EncodeAsIds(t) for t in texts]
    add("Gemma 3", ids, 3, gguf=path.name)
    compare_llama_cpp(path, raw, ids)

    train_models(texts)
    cases += [make(OUT, texts) for make in CASES.values()]
    cases += [make(folder, texts) for make in REAL.values()]
    write_cases(cases)
    print(len(raw), "strings,", sum(len(r) for r in raw), "bytes;", sum(f.stat().st_size for f in OUT.iterdir()), "bytes in", OUT)


if __name__ == "__main__":
    main()
