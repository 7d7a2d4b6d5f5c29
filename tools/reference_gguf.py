"""Opens a GGUF file as a transformers model in float32, for comparisons: every tensor dequantised by gguf-py, the
llama converter's row permutation of q and k undone, Gemma's norms back to the checkpoint's own offset form.

Also the small things that every tool here shares: `need` names the package to install, `formula_lora` writes LoRA
weights that C++ can compute instead of read."""
import importlib
import sys
from pathlib import Path


def need(*modules):
    """Imports modules, or ends in one line that says what to install."""
    found = []
    for module in modules:
        try:
            found.append(importlib.import_module(module))
        except ImportError as error:
            sys.exit(f"{Path(sys.argv[0]).name}: needs the Python package '{module}' ({error})\n"
                     f"  hint: python3 -m venv .venv && .venv/bin/pip install -r "
                     f"{Path(__file__).resolve().parent / 'requirements-reference.txt'}, and run with .venv/bin/python")
    return found[0] if len(found) == 1 else found


np, gguf, torch, transformers = need("numpy", "gguf", "torch", "transformers")

BLOCK = {  # GGUF's name in a block: transformers' name in a layer
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
LLAMA_BLOCK = BLOCK | {"ffn_norm": "post_attention_layernorm"}
QWEN_BLOCK = LLAMA_BLOCK | {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
GEMMA3_BLOCK = BLOCK | {
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm"}
BLOCKS = {"llama": LLAMA_BLOCK, "qwen2": QWEN_BLOCK, "qwen3": QWEN_BLOCK, "gemma3": GEMMA3_BLOCK}


def transformers_name(name, block):
    top = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    *parts, kind = name.split(".")  # kind: weight or bias
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{block[parts[2]]}.{kind}"
    return f"{top[parts[0]]}.{kind}"


def permute(w, heads):
    """Rows from transformers' order (halves) to llama.cpp's (pairs), as its converter does for `llama`."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def unpermute(w, heads):
    return w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def state_dict(reader, architecture, heads, kv_heads):
    block = BLOCKS[architecture]
    state = {}
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":  # Llama 3's scaling as a table; not a weight of the checkpoint
            continue
        w = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        w = w.reshape([int(n) for n in reversed(tensor.shape)])
        if architecture == "llama" and ".attn_q." in tensor.name:
            w = unpermute(w, heads)
        if architecture == "llama" and ".attn_k." in tensor.name:
            w = unpermute(w, kv_heads)
        if architecture == "gemma3" and tensor.name.endswith("norm.weight"):
            w = w - np.float32(1)
        state[transformers_name(tensor.name, block)] = torch.from_numpy(np.ascontiguousarray(w))
    return state


def config(reader, architecture):
    def get(key, default=None):
        field = reader.fields.get(key if "." in key and key.split(".")[0] in ("general", "tokenizer")
                                  else f"{architecture}.{key}")
        return default if field is None else field.contents()

    heads = get("attention.head_count")
    width = get("embedding_length")
    common = dict(
        vocab_size=len(get("tokenizer.ggml.tokens")), hidden_size=width, intermediate_size=get("feed_forward_length"),
        num_hidden_layers=get("block_count"), num_attention_heads=heads,
        num_key_value_heads=get("attention.head_count_kv", heads),
        head_dim=get("attention.key_length", get("rope.dimension_count", width // heads)),
        max_position_embeddings=get("context_length"), rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
        tie_word_embeddings=all(t.name != "output.weight" for t in reader.tensors),
        bos_token_id=get("tokenizer.ggml.bos_token_id"), eos_token_id=get("tokenizer.ggml.eos_token_id"),
        pad_token_id=get("tokenizer.ggml.padding_token_id"), attn_implementation="eager")
    theta = get("rope.freq_base", 10000.0)
    if architecture == "llama":
        return transformers.LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": theta}, **common)
    if architecture == "gemma3":  # the file names neither the pattern (6) nor the local theta (1e4): llama.cpp knows them
        return transformers.Gemma3TextConfig(
            query_pre_attn_scalar=common["head_dim"], sliding_window=get("attention.sliding_window"),
            rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": theta},
                             "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}, **common)
    if architecture in ("qwen2", "qwen3"):
        kind = transformers.Qwen2Config if architecture == "qwen2" else transformers.Qwen3Config
        return kind(rope_parameters={"rope_type": "default", "rope_theta": theta}, **common)
    sys.exit(f"reference_gguf: architecture '{architecture}' is not known here\n  hint: {', '.join(BLOCKS)} are")


def open_model(path):
    """-> the transformers model in float32, in evaluation mode"""
    if not Path(path).is_file():
        sys.exit(f"{path}: no such file\n  hint: ./quickstart.sh fetches SmolLM2's GGUF file, ./quickstart.sh ko Gemma 3's")
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    c = config(reader, architecture)
    state = state_dict(reader, architecture, c.num_attention_heads, c.num_key_value_heads)
    if c.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    kind = {"llama": transformers.LlamaForCausalLM, "qwen2": transformers.Qwen2ForCausalLM,
            "qwen3": transformers.Qwen3ForCausalLM, "gemma3": transformers.Gemma3ForCausalLM}[architecture]
    model = kind(c).float().eval()
    model.load_state_dict(state, strict=True)
    model.tie_weights()
    return model


def open_tokenizer(path):
    """-> llama.cpp's tokenizer of the file: encode(text, bos) -> ids; transformers' of it where llama.cpp is not here"""
    try:
        import llama_cpp
    except ImportError:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        start = [tokenizer.bos_token_id]
        return lambda text, bos=False: (start if bos else []) + tokenizer.encode(text, add_special_tokens=False)
    vocabulary = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    return lambda text, bos=False: vocabulary.tokenize(text.encode(), add_bos=bos, special=False)


def formula_lora(model):
    """A[i][j] = ((31 i + 17 j) mod 64 - 32) / 1024, B = 0: the same in C++ without a file."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".lora_A." in name:
                i = torch.arange(p.shape[0])[:, None]
                j = torch.arange(p.shape[1])[None, :]
                p.copy_(((i * 31 + j * 17) % 64 - 32) / 1024)
            elif ".lora_B." in name:
                p.zero_()


def chosen_nll(logits, tokens, targets):
    """Sum of -log p(token i | before i) over i with targets[i] = 1; logits (S, V)."""
    labels = torch.tensor([t if m else -100 for t, m in zip(tokens, targets)])
    return torch.nn.functional.cross_entropy(logits[:-1].float(), labels[1:], ignore_index=-100, reduction="sum")
