#!/usr/bin/env python3
"""Makes tests/data/t5/: tiny random T5 encoders and what transformers computes with them.

    make_t5_fixtures.py            in place
    make_t5_fixtures.py --check    remakes them in a temporary folder and compares, within 2e-5

flan/ is of FLAN-T5's form (gated GELU) as T5EncoderModel.save_pretrained writes it, with a tokenizer; relu/ of the first T5's,
with its decoder, as T5ForConditionalGeneration writes it; flan.gguf is flan/ in llama.cpp's form. Each has an
expected.safetensors
    ids.N, hidden.N    token ids of a text, and last_hidden_state (tokens, d_model)
    block.N            hidden states after the first block, before the last norm
    gradient.NAME, seed (flan/) of <hidden.1, seed>: of the last block's matrices, and of each q
flan/expected.json has texts, their ids as the tokenizer gives them, and cut at eight tokens.

Traps these fixtures are made to catch:
 - heads * d_kv is 32, d_model 24; scores have no scale, and with these weights it shows.
 - One text is longer than max_distance: the last buckets saturate. Buckets are signed: a key in front is not one behind.
 - The bias is learned in the first block alone and used in all. Texts are packed here, padded and masked there.
 - relu/ holds decoder.* and lm_head; a text ends in </s>, also where it is cut.
"""
import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
from reference_gguf import gguf, np, torch, transformers

from fixture_files import finish, run
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parent / "tests" / "data" / "t5"
TEXTS = ["red apple", "a dog, in oil", "a  red   dog and a green apple on a table", "dog", "naïve zebra"]
WORDS = ["▁a", "▁red", "▁dog", "▁apple", "▁green", "▁and", "▁on", "▁table", "▁in", "▁oil", ",", "le", "ap", "p", "▁ta", "b"]
LONGEST = 8


def tokenizer():
    letters = "▁abcdefghijklmnopqrstuvwxyz,.'"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(w, -2.0 - 0.125 * i) for i, w in enumerate(WORDS)]
    pieces += [(c, -6.0 - 0.0625 * i) for i, c in enumerate(letters) if c not in WORDS]
    made = Tokenizer(models.Unigram(pieces, 2, False))
    made.normalizer = normalizers.Sequence([normalizers.Strip(left=False), normalizers.Replace(Regex(" {2,}"), "▁")])
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=False)
    made.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always", split=False)
    made.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    made.add_special_tokens([AddedToken(t, normalized=False) for t in ("<pad>", "</s>", "<unk>")])
    return made


def randomise(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:
                p.uniform_(0.5, 1.6)
            elif "relative_attention_bias" in name or "shared" in name:
                p.normal_(0, 1)
            else:
                p.normal_(0, 1.2 / p.shape[1] ** 0.5)
    return model.eval()


def config(**more):
    return transformers.T5Config(vocab_size=60, d_model=24, d_kv=8, d_ff=40, num_heads=4, num_layers=3, num_decoder_layers=1,
                                 dropout_rate=0.0, **more)


def hidden_of(encoder, texts):
    """Of padded texts under a mask, the rows of each."""
    longest = max(map(len, texts))
    ids = torch.tensor([t + [0] * (longest - len(t)) for t in texts])
    mask = torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t in texts])
    out = encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    return ([h[:len(t)] for h, t in zip(out.last_hidden_state, texts)],
            [h[:len(t)] for h, t in zip(out.hidden_states[1], texts)])


def write_gguf(path, model):
    c, state = model.config, model.state_dict()
    names = {"shared": "token_embd", "encoder.final_layer_norm": "enc.output_norm"}
    block = {"layer.0.layer_norm": "attn_norm", "layer.0.SelfAttention.q": "attn_q", "layer.0.SelfAttention.k": "attn_k",
             "layer.0.SelfAttention.v": "attn_v", "layer.0.SelfAttention.o": "attn_o",
             "layer.0.SelfAttention.relative_attention_bias": "attn_rel_b", "layer.1.layer_norm": "ffn_norm",
             "layer.1.DenseReluDense.wi_0": "ffn_gate", "layer.1.DenseReluDense.wi_1": "ffn_up",
             "layer.1.DenseReluDense.wo": "ffn_down"}
    names |= {f"encoder.block.{i}.{hf}": f"enc.blk.{i}.{to}" for i in range(c.num_layers) for hf, to in block.items()}
    writer = gguf.GGUFWriter(path, "t5encoder")
    writer.add_context_length(512)
    writer.add_embedding_length(c.d_model)
    writer.add_feed_forward_length(c.d_ff)
    writer.add_block_count(c.num_layers)
    writer.add_head_count(c.num_heads)
    writer.add_key_length(c.d_kv)
    writer.add_value_length(c.d_kv)
    writer.add_layer_norm_eps(c.layer_norm_epsilon)
    writer.add_relative_attn_buckets_count(c.relative_attention_num_buckets)
    writer.add_layer_norm_rms_eps(c.layer_norm_epsilon)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    made = json.loads(tokenizer().to_str())
    pieces = made["model"]["vocab"]
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([p for p, _ in pieces])
    writer.add_token_scores([s for _, s in pieces])
    writer.add_token_types([3, 3, 2] + [1] * (len(pieces) - 3))
    writer.add_add_space_prefix(True)
    writer.add_remove_extra_whitespaces(True)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(2)
    for name, value in state.items():
        module, kind = name.rsplit(".", 1)
        if module != "encoder.embed_tokens":
            writer.add_tensor(f"{names[module]}.{kind}", value.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make(out):
    for name, seed in (("flan", 5), ("relu", 6)):
        torch.manual_seed(seed)
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        if name == "flan":
            model = randomise(transformers.T5EncoderModel(config(feed_forward_proj="gated-gelu")))
            encoder = model
        else:
            model = randomise(transformers.T5ForConditionalGeneration(config(feed_forward_proj="relu", tie_word_embeddings=False)))
            encoder = model.encoder
        model.save_pretrained(folder)
        texts = [[int(i) for i in torch.randint(3, 60, (n,))] for n in (1, 9, 170)]
        tensors = {}
        if name == "relu":
            with torch.no_grad():
                hidden, first = hidden_of(encoder, texts)
        else:
            hidden, first = hidden_of(encoder, texts)
            seed = torch.randn_like(hidden[1])
            (hidden[1] * seed).sum().backward()
            tensors["seed"] = seed
            tensors |= {f"gradient.{n}": p.grad for n, p in model.named_parameters()
                        if p.grad is not None and ("block.2" in n or n.endswith("SelfAttention.q.weight")) and p.dim() == 2}
        for i, ids in enumerate(texts):
            tensors |= {f"ids.{i}": torch.tensor(ids, dtype=torch.int32), f"hidden.{i}": hidden[i], f"block.{i}": first[i]}
        save_file({k: v.detach().contiguous() for k, v in tensors.items()}, folder / "expected.safetensors")
    made = tokenizer()
    made.save(str(out / "flan" / "tokenizer.json"))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    (out / "flan" / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "tokenizer_class": "T5Tokenizer"}) + "\n")
    ids = [fast(t).input_ids for t in TEXTS]
    cut = [fast(t, truncation=True, max_length=LONGEST).input_ids for t in TEXTS]
    encoder = transformers.T5EncoderModel.from_pretrained(out / "flan").eval()
    with torch.no_grad():
        hidden, _ = hidden_of(encoder, cut)
    (out / "flan" / "expected.json").write_text(
        json.dumps({"texts": TEXTS, "ids": ids, "cut": cut, "longest": LONGEST,
                    "first_state": [[float(v) for v in h[0]] for h in hidden]}, ensure_ascii=False, indent=1) + "\n")
    write_gguf(out / "flan.gguf", encoder)
    finish(out)


if __name__ == "__main__":
    run(__doc__, make, ROOT, names=("expected.json", "tokenizer.json"))
