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
PHI3_BLOCK = LLAMA_BLOCK | {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
BLOCKS = {"llama": LLAMA_BLOCK, "qwen2": QWEN_BLOCK, "qwen3": QWEN_BLOCK, "gemma3": GEMMA3_BLOCK, "smollm3": LLAMA_BLOCK,
          "granite": LLAMA_BLOCK, "phi3": PHI3_BLOCK}
GPT2_BLOCK = {"attn_norm": "ln_1", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj", "ffn_norm": "ln_2",
              "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}
BLOCKS["gpt2"] = GPT2_BLOCK
BLOCKS["qwen3moe"] = QWEN_BLOCK | {
    "ffn_gate_inp": "mlp.gate", "ffn_gate_exps": "mlp.experts.gate_proj", "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj"}
BLOCKS["gpt-oss"] = LLAMA_BLOCK | {
    "post_attention_norm": "post_attention_layernorm", "attn_sinks": "self_attn.sinks", "ffn_gate_inp": "mlp.router",
    "ffn_gate_exps": "mlp.experts.gate_proj", "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj"}
BLOCKS["lfm2"] = QWEN_BLOCK | {
    "attn_norm": "operator_norm", "ffn_norm": "ffn_norm", "attn_output": "self_attn.out_proj",
    "attn_q_norm": "self_attn.q_layernorm", "attn_k_norm": "self_attn.k_layernorm", "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3", "ffn_down": "feed_forward.w2", "shortconv.in_proj": "conv.in_proj",
    "shortconv.conv": "conv.conv", "shortconv.out_proj": "conv.out_proj"}
BLOCKS["qwen35"] = QWEN_BLOCK | {
    "post_attention_norm": "post_attention_layernorm", "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z", "ssm_beta": "linear_attn.in_proj_b", "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_conv1d": "linear_attn.conv1d", "ssm_norm": "linear_attn.norm", "ssm_out": "linear_attn.out_proj"}
BARE = {"ssm_a": "linear_attn.A_log", "ssm_dt.bias": "linear_attn.dt_bias"}  # names whose endings are not alike
BLOCKS["gemma4"] = GEMMA3_BLOCK | {
    "inp_gate": "per_layer_input_gate", "proj": "per_layer_projection", "post_norm": "post_per_layer_input_norm",
    "layer_output_scale": "layer_scalar"}
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
TOPS = {"gpt2": {"token_embd": "transformer.wte", "position_embd": "transformer.wpe", "output_norm": "transformer.ln_f",
                 "output": "lm_head"},
        "gemma4": TOP | {"per_layer_token_embd": "model.embed_tokens_per_layer",
                         "per_layer_model_proj": "model.per_layer_model_projection",
                         "per_layer_proj_norm": "model.per_layer_projection_norm"},
        "lfm2": {"token_embd": "model.embed_tokens", "token_embd_norm": "model.embedding_norm"}}
PERMUTED = ("llama", "smollm3", "granite")  # whose rows of q and k are
SHIFTED = ("gemma3", "qwen35")  # whose norms GGUF has as 1 + w


def transformers_name(name, architecture):
    *parts, kind = name.split(".")  # kind: weight or bias
    if parts[0] == "blk" and (bare := BARE.get(name.split(".", 2)[2])):
        return f"model.layers.{parts[1]}.{bare}"
    if parts[0] == "blk":
        layers = "transformer.h" if architecture == "gpt2" else "model.layers"
        return f"{layers}.{parts[1]}.{BLOCKS[architecture]['.'.join(parts[2:])]}.{kind}"
    return f"{TOPS.get(architecture, TOP)[parts[0]]}.{kind}"


def permute(w, heads):
    """Rows from transformers' order (halves) to llama.cpp's (pairs), as its converter does for `llama`."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def unpermute(w, heads):
    return w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def tiled(w, groups, heads, begin=0, axis=0):
    """Heads of values as llama.cpp's converter orders them (_LinearAttentionVReorderBase): the first head of each group, then the
    second of each. With heads // groups for groups it is its own inverse."""
    w = np.moveaxis(w, axis, 0)
    part = w[begin:]
    part = part.reshape(groups, heads // groups, len(part) // heads, *part.shape[1:]).swapaxes(0, 1).reshape(part.shape)
    return np.moveaxis(np.concatenate([w[:begin], part]), 0, axis)


def tile_of(name, key_heads, key_dim):
    """Where in that GGUF tensor of a gated delta net heads of values lie: (begin, axis); None: nowhere."""
    part = name.split(".", 2)[-1].removesuffix(".weight")
    if part in ("attn_qkv", "ssm_conv1d"):
        return 2 * key_heads * key_dim, 0
    return {"attn_gate": (0, 0), "ssm_beta": (0, 0), "ssm_alpha": (0, 0), "ssm_dt.bias": (0, 0), "ssm_a": (0, 0), "ssm_out": (0, 1)}.get(part)


def state_dict(reader, architecture, heads, kv_heads, delta=None):
    """`delta`: of a gated delta net (key heads, value heads, size of a key)."""
    state = {}
    for tensor in reader.tensors:
        if tensor.name.startswith("rope_f"):  # divisors of frequencies; not weights of the checkpoint
            continue
        w = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        w = w.reshape([int(n) for n in reversed(tensor.shape)])
        if architecture == "gpt2" and w.ndim == 2 and tensor.name.startswith("blk."):
            w = w.T
        if tensor.name.endswith(("shortconv.conv.weight", "ssm_conv1d.weight")):
            w = w[:, None]
        if architecture in PERMUTED and ".attn_q." in tensor.name:
            w = unpermute(w, heads)
        if architecture in PERMUTED and ".attn_k." in tensor.name:
            w = unpermute(w, kv_heads)
        if architecture in SHIFTED and tensor.name.endswith("norm.weight") and "ssm_norm" not in tensor.name:
            w = w - np.float32(1)
        if tensor.name.endswith("ssm_a"):
            w = np.log(-w)
        if delta and (at := tile_of(tensor.name, delta[0], delta[2])):
            w = tiled(w, delta[1] // delta[0], delta[1], *at)
        name = transformers_name(tensor.name, architecture)
        name = name.removesuffix(".weight") if name.endswith("layer_scalar.weight") else name
        state[name] = torch.from_numpy(np.ascontiguousarray(w))
    if architecture == "gpt-oss":  # experts as (E, in, out), gate and up interleaved
        for name in [n for n in state if n.endswith("experts.gate_proj.weight")]:
            at = name[:-len(".gate_proj.weight")]
            for kind, end in (("weight", ""), ("bias", "_bias")):
                gate, up, down = (state.pop(f"{at}.{p}_proj.{kind}") for p in ("gate", "up", "down"))
                both = torch.stack([gate, up], dim=2).flatten(1, 2)
                state[f"{at}.gate_up_proj{end}"] = (both.transpose(1, 2) if kind == "weight" else both).contiguous()
                state[f"{at}.down_proj{end}"] = (down.transpose(1, 2) if kind == "weight" else down).contiguous()
        return {n.removesuffix(".weight") if n.endswith("sinks.weight") else n: w for n, w in state.items()}
    for name in [n for n in state if n.endswith("experts.gate_proj.weight")]:
        at = name[:-len(".gate_proj.weight")]
        state[f"{at}.gate_up_proj"] = torch.cat([state.pop(name), state.pop(f"{at}.up_proj.weight")], dim=1)
        state[f"{at}.down_proj"] = state.pop(f"{at}.down_proj.weight")
    return state


def gemma4_config(get, names):
    """Of a GGUF whose keys `get` gives, with tensors of these names."""
    windows = get("attention.sliding_window_pattern")
    full = windows.index(False)
    heads = get("attention.head_count_kv")
    heads = heads if isinstance(heads, list) else [heads] * len(windows)
    widths = get("feed_forward_length")
    widths = widths if isinstance(widths, list) else [widths]
    shared = get("attention.shared_kv_layers", 0)
    return transformers.Gemma4TextConfig(
        vocab_size=len(get("tokenizer.ggml.tokens")), hidden_size=get("embedding_length"), intermediate_size=widths[0],
        num_hidden_layers=get("block_count"), num_attention_heads=get("attention.head_count"),
        num_key_value_heads=heads[windows.index(True)], num_global_key_value_heads=heads[full],
        attention_k_eq_v=f"blk.{full}.attn_v.weight" not in names, head_dim=get("attention.key_length_swa"),
        global_head_dim=get("attention.key_length"), max_position_embeddings=get("context_length"),
        rms_norm_eps=get("attention.layer_norm_rms_epsilon"), sliding_window=get("attention.sliding_window"),
        layer_types=["sliding_attention" if w else "full_attention" for w in windows],
        rope_parameters={"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25,  # rope_freqs
                                            "rope_theta": get("rope.freq_base")},
                         "sliding_attention": {"rope_type": "default", "rope_theta": get("rope.freq_base_swa")}},
        final_logit_softcapping=get("final_logit_softcapping") or None,
        vocab_size_per_layer_input=len(get("tokenizer.ggml.tokens")),
        hidden_size_per_layer_input=get("embedding_length_per_layer_input"), num_kv_shared_layers=shared,
        use_double_wide_mlp=shared > 0 and widths[-1] != widths[0], tie_word_embeddings="output.weight" not in names,
        bos_token_id=get("tokenizer.ggml.bos_token_id"), eos_token_id=get("tokenizer.ggml.eos_token_id"),
        pad_token_id=get("tokenizer.ggml.padding_token_id"), attn_implementation="eager")


def config(reader, architecture):
    def get(key, default=None):
        field = reader.fields.get(key if "." in key and key.split(".")[0] in ("general", "tokenizer")
                                  else f"{architecture}.{key}")
        return default if field is None else field.contents()

    heads = get("attention.head_count")
    width = get("embedding_length")
    if architecture == "gemma4":
        return gemma4_config(get, {t.name for t in reader.tensors})
    common = dict(
        vocab_size=len(get("tokenizer.ggml.tokens")), hidden_size=width, intermediate_size=get("feed_forward_length"),
        num_hidden_layers=get("block_count"), num_attention_heads=heads,
        num_key_value_heads=get("attention.head_count_kv", heads),
        head_dim=get("attention.key_length", width // heads),
        max_position_embeddings=get("context_length"), rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
        tie_word_embeddings=all(t.name != "output.weight" for t in reader.tensors),
        bos_token_id=get("tokenizer.ggml.bos_token_id"), eos_token_id=get("tokenizer.ggml.eos_token_id"),
        pad_token_id=get("tokenizer.ggml.padding_token_id"), attn_implementation="eager")
    if architecture == "gpt2":
        return transformers.GPT2Config(
            n_inner=common["intermediate_size"], layer_norm_epsilon=get("attention.layer_norm_epsilon"), n_embd=width,
            n_head=heads, n_layer=common["num_hidden_layers"], n_positions=common["max_position_embeddings"],
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            **{k: common[k] for k in ("vocab_size", "bos_token_id", "eos_token_id", "tie_word_embeddings")},
            attn_implementation="eager")
    theta = get("rope.freq_base", 10000.0)
    if architecture == "lfm2":
        kv_heads = common.pop("num_key_value_heads")
        return transformers.Lfm2Config(
            norm_eps=common.pop("rms_norm_eps"), conv_L_cache=get("shortconv.l_cache"), block_auto_adjust_ff_dim=False,
            layer_types=["full_attention" if n else "conv" for n in kv_heads], num_key_value_heads=max(kv_heads),
            rope_parameters={"rope_type": "default", "rope_theta": theta}, **common)
    if architecture == "llama":
        return transformers.LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": theta}, **common)
    if architecture == "gemma3":  # the file names neither the pattern (6) nor the local theta (1e4): llama.cpp knows them
        return transformers.Gemma3TextConfig(
            query_pre_attn_scalar=common["head_dim"], sliding_window=get("attention.sliding_window"),
            rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": theta},
                             "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}, **common)
    if architecture == "smollm3":
        return transformers.SmolLM3Config(rope_parameters={"rope_type": "default", "rope_theta": theta}, **common)
    if architecture == "granite":
        return transformers.GraniteConfig(
            attention_multiplier=get("attention.scale"), embedding_multiplier=get("embedding_scale"),
            residual_multiplier=get("residual_scale"), logits_scaling=get("logit_scale"),
            rope_parameters={"rope_type": "default", "rope_theta": theta}, **common)
    if architecture == "phi3":
        factors = {t.name[len("rope_factors_"):-len(".weight")] + "_factor": t.data.tolist()
                   for t in reader.tensors if t.name.startswith("rope_factors_")}
        rope = {"rope_type": "longrope", "attention_factor": get("rope.scaling.attn_factor")} if factors else {}
        return transformers.Phi3Config(
            original_max_position_embeddings=get("rope.scaling.original_context_length"),
            sliding_window=get("attention.sliding_window") or None,
            rope_parameters={"rope_type": "default", "rope_theta": theta, **rope, **factors,
                             "partial_rotary_factor": get("rope.dimension_count") / common["head_dim"]}, **common)
    if architecture == "qwen35":
        value_heads = get("ssm.time_step_rank")
        interval, layers = get("full_attention_interval"), common["num_hidden_layers"]
        return transformers.Qwen3_5TextConfig(
            linear_conv_kernel_dim=get("ssm.conv_kernel"), linear_key_head_dim=get("ssm.state_size"),
            linear_num_key_heads=get("ssm.group_count"), linear_num_value_heads=value_heads,
            linear_value_head_dim=get("ssm.inner_size") // value_heads,
            layer_types=["linear_attention" if (i + 1) % interval else "full_attention" for i in range(layers)],
            rope_parameters={"rope_type": "default", "rope_theta": theta, "mrope_interleaved": True,
                             "mrope_section": get("rope.dimension_sections")[:3],
                             "partial_rotary_factor": get("rope.dimension_count") / common["head_dim"]}, **common)
    if architecture == "qwen3moe":
        return transformers.Qwen3MoeConfig(
            num_experts=get("expert_count"), num_experts_per_tok=get("expert_used_count"), norm_topk_prob=True,
            moe_intermediate_size=get("expert_feed_forward_length"), experts_implementation="eager",
            rope_parameters={"rope_type": "default", "rope_theta": theta}, **common)
    if architecture == "gpt-oss":
        return transformers.GptOssConfig(
            num_local_experts=get("expert_count"), num_experts_per_tok=get("expert_used_count"),
            sliding_window=get("attention.sliding_window"), experts_implementation="eager",
            rope_parameters={"rope_type": "yarn", "rope_theta": theta, "factor": get("rope.scaling.factor"),
                             "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                             "original_max_position_embeddings": get("rope.scaling.original_context_length")}, **common)
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
    kv_heads = 0 if architecture == "gemma4" else getattr(c, "num_key_value_heads", 0)  # by which rows are permuted
    delta = architecture == "qwen35" and (c.linear_num_key_heads, c.linear_num_value_heads, c.linear_key_head_dim)
    state = state_dict(reader, architecture, c.num_attention_heads, kv_heads, delta)
    if c.tie_word_embeddings:
        state["lm_head.weight"] = state[TOPS.get(architecture, TOP)["token_embd"] + ".weight"]
    kind = transformers.AutoModelForCausalLM.from_config
    model = kind(c).float().eval()
    if architecture == "gemma4":  # files hold keys' and values' weights of layers that read those of others
        state = {n: w for n, w in state.items() if n in model.state_dict()}
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
