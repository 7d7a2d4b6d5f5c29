#!/usr/bin/env python3
"""Makes tests/data/models/: tiny random models and what transformers and peft compute with them.

    make_model_fixtures.py                        all fixtures, in place
    make_model_fixtures.py --only llama_tiny      one of them
    make_model_fixtures.py --check                remakes them in a temporary folder and compares, within 2e-5
    make_model_fixtures.py --real MODEL.gguf OUT.json   the same for a real file, which is not committed

Hugging Face folders hold
    config.json, *.safetensors       the model, as transformers 5 writes it; config.v4.json: the same as 4.x wrote it
    adapter_initial, adapter_trained peft folders (README.md left out): LoRA before and after the ten steps
    expected.json                    ids, masks, losses, norms, generated ids, checksums
    experts_initial, experts_trained, experts.json, experts.safetensors
                                     of a model with experts the same as adapter_*, training.lora and lora.logits, with
                                     peft's target_parameters beside attention's layers
    balance.json                     of a model with experts: full training with the routers' load-balancing loss of all
                                     layers and all sequences of a batch, and that loss (aux) before the first step
    expected.safetensors             logits.N (S, V) of sequence N; hidden.0 (embedding) .. hidden.L (after layer L),
                                     hidden.norm; grad.<parameter>; full.logits, lora.logits after ten steps
GGUF models are NAME.gguf with NAME.expected.json and NAME.expected.safetensors beside them.

`targets` is aligned with `tokens`: targets[i] = 1 says that token i is predicted, from position i - 1, and counts.

Traps these fixtures are made to catch:
 - head_dim that is not hidden / heads (gemma3_tiny: 12, not 10); query_pre_attn_scalar that is not head_dim (16).
 - rope_theta sits in config.json's `rope_parameters` since transformers 5, at top level before; Gemma's has one entry a
   kind of layer there, and was rope_theta with rope_local_base_freq before.
 - sliding_window 8 sees 8 tokens, its own among them: i - j < 8. Local layers use the local theta, global ones the other.
 - layer_types says which layers are global; older files have sliding_window_pattern instead, some neither (6 then).
   gemma3_tiny's config.json has both, and its `_sliding_window_pattern` of 6 (as transformers writes it) is not true.
 - transformers' own hidden_states[-1] is after the last norm; hidden.L here is before it.
 - Gemma's norms are (1 + w), and GGUF has the 1 added already; its embedding is scaled by sqrt(width), its tied head not.
 - In tied models a tensor lm_head.weight is absent from the file, and the embedding's gradient has both shares.
 - Sequence 0 is one token long: no target at all, loss 0, not NaN.
 - Loss of a step is a sum over targets divided by their number over the whole batch, not a mean of means.
 - clip_grad_norm_ scales by min(1, max_norm / (norm + 1e-6)); the norm reported is the one before clipping.
 - AdamW: decay on matrices (embedding and LoRA among them) and none on norms; eps outside the root; bias-corrected.
 - LoRA: B = 0, so A's first gradient is exactly zero; alpha / r scales; 'all-linear' leaves lm_head out.
 - repetition_penalty counts the prompt's tokens; positive logits are divided, negative ones multiplied.
 - qwen2 has biases on q, k and v alone; qwen2_tiny's last layer has a window (use_sliding_window, max_window_layers).
 - qwen3_tiny: 4 heads of 8 over a width of 20; q and k are normed head by head, with one weight for all heads.
 - qwen2's and qwen3's q and k rows are not permuted in GGUF.
 - llama's q and k rows are permuted in GGUF, by their own head counts (kv heads for k).
 - llama_untied's rope (llama3): factor 8, original length 32, so that all three bands of frequencies occur.
 - mistral_tiny: a window on all layers, shards; no window is null in config.json, and a missing key is 4096.
 - smollm3_tiny: the layer without positions is the second, not the fourth, and it alone has the window; yarn with a ramp.
 - granite: attention_multiplier stands in place of 1 / sqrt(head size); the embedding's factor is an integer.
 - granite4_tiny: no positions at all; intermediate_size is not the width of its feed-forward part.
 - phi3_tiny: 6 of a head's 8 elements turn; texts become longer than longrope's 16 while they are generated.
 - gpt2's matrices are (in, out) in its folder alone; its positions are rows that are learned; a LayerNorm has a bias.
 - qwen3_moe_tiny: one layer has no experts; probabilities of the chosen ones do not sum to 1 (in GGUF they always do).
 - gpt_oss: what is kept of a layer's experts is one tensor, (E, in, out) with gate and up interleaved, or blocks and scales
   of (E, out, in); here, and in GGUF, each expert has matrices (out, in). Its GGUF has no word for yarn's `truncate`.
 - lfm2's last norm is called embedding_norm, token_embd_norm in GGUF; config.json's width of the feed-forward part is
   not the one that is built; which layers are attention is said by name, by number (older files), or by heads (GGUF).
 - qwen3_5_tiny: a folder of the whole model, whose text model is in text_config and below model.language_model.; its
   mtp.* and model.visual.* are not read. Norms are (1 + w), that of a delta net is w; A_log and dt_bias have no ending, and
   GGUF has -e^A_log. qwen3_5_heads: the text model alone, more value heads than key heads, values of another size. Their
   eps is large: a text's first token gives v times q k, and where that is near zero the norm behind it makes rounding large.
 - qwen35_heads_q4_1: GGUF has the first value head of each key head, then the second of each; blocks of 32 reach over two heads of
   16 columns.
 - gemma4_tiny: the last three layers have no keys and values of their own and read those of layers 1 and 2; heads are of
   8 with a window and of 16 without; config.json says that in per_layer_config, and did in global_head_dim before. A
   layer's scalar is a buffer: trained nowhere, in every file. gemma4_kv_tiny: values that are keys, no embeddings of layers.
 - gemma4's GGUF: norms as they are (no 1 added); rope_freqs turns a quarter of the pairs; widths of layers are an array;
   layers that read keys and values of others have weights for them nevertheless, which nobody reads.
 - gemma4_kv_q4_1: no key says that values are keys: those layers have no attn_v; heads of keys are counted layer by layer.
 - smollm3's and granite's q and k rows are permuted in GGUF as llama's are, phi3's in one matrix are not.
 - GGUF scalars are float32: eps is 9.99999974e-06 there, 1e-5 in config.json.
"""
import argparse
import json
import math
import os
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ["HF_HUB_OFFLINE"] = "1"
from reference_gguf import (BARE, BLOCKS, PERMUTED, SHIFTED, TOP, TOPS, chosen_nll, formula_lora, gguf, need, np, open_model,
                            open_tokenizer, permute, tile_of, tiled, torch, transformers)

peft, safetensors_torch = need("peft", "safetensors.torch")

ROOT = Path(__file__).resolve().parent.parent / "tests" / "data" / "models"
LENGTHS, PREFIXES = (1, 7, 23), (0, 3, 9)
STEPS, NEW_TOKENS = 10, 20
OPTIMIZER = {"name": "AdamW", "lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01,
             "decay_on": "matrices", "clip_norm": 1.0}


def seeded(name):
    torch.manual_seed(zlib.crc32(name.encode()))


def write_json(path, value):
    """One key a line down to lists, which stay on one line: small, and readable in a diff."""
    def text(v, indent):
        pad = " " * indent
        if isinstance(v, dict):
            return "{\n" + ",\n".join(f"{pad} {json.dumps(k)}: {text(x, indent + 1)}" for k, x in v.items()) + f"\n{pad}}}"
        if isinstance(v, list) and v and isinstance(v[0], (dict, list)):
            return "[\n" + ",\n".join(f"{pad} {text(x, indent + 1) if isinstance(x, list) else json.dumps(x)}" for x in v) \
                + f"\n{pad}]"
        return json.dumps(v)
    path.write_text(text(value, 0) + "\n")


def made_by():
    return {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__,
            "gguf": "0.19.0"}


# ---- models ----------------------------------------------------------------------------------------------------------

def randomise(model, embedding_std):
    """Norms away from one, matrices so large that logits vary."""
    gemma = model.config.model_type == "gemma3_text"
    zero_centred = gemma or model.config.model_type == "qwen3_5_text"
    gemma4 = model.config.model_type == "gemma4_text"
    with torch.no_grad():
        for name, b in model.named_buffers():
            if name.endswith("layer_scalar"):
                b.uniform_(0.7, 1.3)
        for name, p in model.named_parameters():
            if gemma and "post_" in name:
                p.uniform_(0.2, 2.0)  # what a block adds outweighs the embedding: tied models else repeat their input
            elif gemma4 and "post_" in name:
                p.uniform_(0.8, 2.5)
            elif gemma4 and name.endswith(("q_norm.weight", "k_norm.weight")):
                p.uniform_(0.3, 0.8)  # their product alone scales the scores
            elif name.endswith("bias"):
                p.normal_(0, 0.5)
            elif name.endswith("A_log"):
                p.uniform_(-4, 0.5)  # so that some heads forget within a text, and some do not
            elif model.config.model_type == "gpt_oss" and "experts" in name:
                p.normal_(0, 0.5 / math.sqrt(p.shape[1]))  # (up + 1) adds what others do not have
            elif p.dim() == 1:
                p.uniform_(-0.5, 0.6) if zero_centred and "linear_attn" not in name else p.uniform_(0.5, 1.6)
            else:
                p.normal_(0, 1 if "conv.conv" in name or "conv1d" in name else embedding_std if any(w in name for w in ("embed", "wte", "lm_head")) else 1.5 / math.sqrt(p.shape[1]))
    return model.float().eval()


def llama_tiny():
    c = transformers.LlamaConfig(
        vocab_size=97, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5}, attn_implementation="eager")
    old = {"rope_theta": 1e5, "rope_scaling": None}
    return randomise(transformers.LlamaForCausalLM(c), 0.35), old, "10GB"


def llama_untied():
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32}
    c = transformers.LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=False,
        rope_parameters={**rope, "rope_theta": 10000.0}, attn_implementation="eager")
    return randomise(transformers.LlamaForCausalLM(c), 0.5), {"rope_theta": 10000.0, "rope_scaling": rope}, "24KB"


def qwen2_tiny():
    c = transformers.Qwen2Config(
        vocab_size=97, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-6, tie_word_embeddings=False,
        use_sliding_window=True, sliding_window=8, max_window_layers=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5}, attn_implementation="eager")
    old = {"rope_theta": 1e5, "rope_scaling": None, "layer_types": None}
    return randomise(transformers.Qwen2ForCausalLM(c), 0.6), old, "10GB"


def qwen3_tiny():
    c = transformers.Qwen3Config(
        vocab_size=97, hidden_size=20, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=256, rms_norm_eps=1e-6, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, attn_implementation="eager")
    old = {"rope_theta": 1e6, "rope_scaling": None, "layer_types": None}
    return randomise(transformers.Qwen3ForCausalLM(c), 0.35), old, "10GB"


def gemma3_tiny():
    pattern = 3
    c = transformers.Gemma3TextConfig(
        vocab_size=101, hidden_size=20, intermediate_size=36, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, head_dim=12, query_pre_attn_scalar=16, max_position_embeddings=256, rms_norm_eps=1e-6,
        sliding_window=8, layer_types=["full_attention" if (i + 1) % pattern == 0 else "sliding_attention"
                                       for i in range(4)],
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 1e6},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
        tie_word_embeddings=True, attn_implementation="eager")
    old = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": None, "sliding_window_pattern": pattern,
           "layer_types": None, "cache_implementation": "hybrid"}
    return randomise(transformers.Gemma3ForCausalLM(c), 0.25), old, "10GB"


def mistral_tiny():
    c = transformers.MistralConfig(
        vocab_size=97, hidden_size=20, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=6, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=False,
        sliding_window=8, rope_parameters={"rope_type": "default", "rope_theta": 1e6}, attn_implementation="eager")
    return randomise(transformers.MistralForCausalLM(c), 0.6), {"rope_theta": 1e6, "rope_scaling": None}, "24KB"


def smollm3_tiny():
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    c = transformers.SmolLM3Config(
        vocab_size=97, hidden_size=32, intermediate_size=36, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, rms_norm_eps=1e-6, tie_word_embeddings=True,
        no_rope_layers=[1, 0, 1], use_sliding_window=True, sliding_window=8, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, rope_parameters={**yarn, "rope_theta": 5e4}, attn_implementation="eager")
    old = {"rope_theta": 5e4, "rope_scaling": yarn, "layer_types": None}
    return randomise(transformers.SmolLM3ForCausalLM(c), 0.35), old, "10GB"


GRANITE = dict(vocab_size=97, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1,
               max_position_embeddings=256, rms_norm_eps=1e-5, embedding_multiplier=12, residual_multiplier=0.22,
               attention_multiplier=0.25, rope_parameters={"rope_type": "default", "rope_theta": 1e5},
               attn_implementation="eager")


def granite_tiny():
    c = transformers.GraniteConfig(**GRANITE, intermediate_size=40, logits_scaling=1.5, tie_word_embeddings=False)
    return randomise(transformers.GraniteForCausalLM(c), 0.3), {"rope_theta": 1e5, "rope_scaling": None}, "10GB"


def granite4_tiny():
    c = transformers.GraniteMoeHybridConfig(
        **GRANITE, intermediate_size=44, shared_intermediate_size=36, logits_scaling=4, tie_word_embeddings=True,
        num_local_experts=0, num_experts_per_tok=0, layer_types=["full_attention"] * 2, mamba_n_heads=6,
        mamba_d_head=8, position_embedding_type=None)
    old = {"rope_theta": 1e5, "rope_scaling": None, "layer_types": ["attention"] * 2, "position_embedding_type": "nope"}
    return randomise(transformers.GraniteMoeHybridForCausalLM(c), 0.3), old, "10GB"


def phi3_tiny():
    factors = {"short_factor": [1.0, 1.1, 1.3], "long_factor": [1.0, 2.0, 4.0]}
    c = transformers.Phi3Config(
        vocab_size=97, hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=256, original_max_position_embeddings=16, rms_norm_eps=1e-5,
        tie_word_embeddings=False, sliding_window=12, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75, **factors},
        attn_implementation="eager")
    old = {"rope_theta": 1e4, "rope_scaling": {"type": "longrope", **factors}, "partial_rotary_factor": 0.75}
    return randomise(transformers.Phi3ForCausalLM(c), 0.5), old, "10GB"


def gpt2_tiny():
    c = transformers.GPT2Config(
        vocab_size=97, n_embd=24, n_inner=40, n_layer=2, n_head=3, n_positions=64, layer_norm_epsilon=1e-5,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2, attn_implementation="eager")
    return randomise(transformers.GPT2LMHeadModel(c), 0.35), {}, "10GB"


def lfm2_tiny():
    c = transformers.Lfm2Config(
        vocab_size=97, hidden_size=24, intermediate_size=60, num_hidden_layers=3, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=256, norm_eps=1e-5, conv_L_cache=3, block_multiple_of=8,
        layer_types=["conv", "full_attention", "conv"], tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, attn_implementation="eager")
    old = {"rope_theta": 1e6, "rope_scaling": None, "layer_types": None, "full_attn_idxs": [1], "block_ff_dim": 60}
    return randomise(transformers.Lfm2ForCausalLM(c), 0.35), old, "10GB"


def qwen3_moe_tiny():
    c = transformers.Qwen3MoeConfig(
        vocab_size=97, hidden_size=20, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=256, rms_norm_eps=1e-6, tie_word_embeddings=False,
        num_experts=5, num_experts_per_tok=2, moe_intermediate_size=12, norm_topk_prob=False, mlp_only_layers=[0],
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, attn_implementation="eager",
        experts_implementation="eager")
    return randomise(transformers.Qwen3MoeForCausalLM(c), 0.6), {"rope_theta": 1e6, "rope_scaling": None}, "10GB"


def gpt_oss_config():
    return transformers.GptOssConfig(
        vocab_size=97, hidden_size=32, intermediate_size=32, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=False,
        num_local_experts=4, num_experts_per_tok=2, sliding_window=6, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        rope_parameters={"rope_type": "yarn", "rope_theta": 150000.0, "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0,
                         "truncate": False, "original_max_position_embeddings": 32}, attn_implementation="eager",
        experts_implementation="eager")


def gpt_oss_old(config):
    rope = dict(config.rope_parameters)
    return {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}


def gpt_oss_tiny():
    c = gpt_oss_config()
    return randomise(transformers.GptOssForCausalLM(c), 0.4), gpt_oss_old(c), "10GB"


def gpt_oss_mxfp4():
    """Experts as blocks of random bits, which transformers' own unpacking makes into the model's weights."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors
    c = gpt_oss_config()
    model = randomise(transformers.GptOssForCausalLM(c), 0.6)
    model.packed = {}
    for name, p in model.named_parameters():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            continue
        experts, width, rows = p.shape
        blocks = torch.randint(0, 256, (experts, rows, width // 32, 16), dtype=torch.uint8)
        scales = torch.randint(120, 123, (experts, rows, width // 32), dtype=torch.uint8)
        p.data = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).contiguous()
        assert p.shape == (experts, width, rows)
        model.packed |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    return model, gpt_oss_old(c), "10GB"


def qwen3_5_config(**more):
    rope = {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.25, "mrope_interleaved": True,
            "mrope_section": [1, 1, 0]}
    return transformers.Qwen3_5TextConfig(**dict(
        vocab_size=97, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=256, rms_norm_eps=1e-3, tie_word_embeddings=True,
        linear_conv_kernel_dim=4, linear_key_head_dim=16, linear_value_head_dim=16, linear_num_key_heads=3,
        linear_num_value_heads=3, layer_types=["linear_attention", "full_attention", "linear_attention"],
        rope_parameters=rope, attn_implementation="eager") | more)


def qwen3_5_old(config):
    return {"rope_theta": config.rope_parameters["rope_theta"], "partial_rotary_factor": 0.25}


def qwen3_5_tiny():
    c = qwen3_5_config()
    model = randomise(transformers.Qwen3_5ForCausalLM(c), 0.35)
    model.beside = {"model.visual.merger.norm.weight": torch.ones(8), "mtp.fc.weight": torch.zeros(24, 48),
                    "mtp.norm.weight": torch.zeros(24)}
    return model, qwen3_5_old(c), "10GB"


def qwen3_5_heads():
    c = qwen3_5_config(linear_num_key_heads=2, linear_num_value_heads=4, linear_value_head_dim=12, tie_word_embeddings=False)
    return randomise(transformers.Qwen3_5ForCausalLM(c), 0.35), qwen3_5_old(c), "10GB"


def put_into_whole(folder, beside):
    """A folder of a text model becomes one of a model that reads pictures too, as those are published."""
    state = safetensors_torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    state = {n.replace("model.", "model.language_model.", 1): w for n, w in state.items()} | beside
    names = sorted(state)
    parts = [names[:len(names) // 2], names[len(names) // 2:]]
    index = {"metadata": {"total_size": sum(w.numel() * 4 for w in state.values())}, "weight_map": {}}
    for i, part in enumerate(parts):
        file = f"model-{i + 1:05}-of-00002.safetensors"
        safetensors_torch.save_file({n: state[n] for n in part}, folder / file, metadata={"format": "pt"})
        index["weight_map"] |= {n: file for n in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    text = json.loads((folder / "config.json").read_text())
    whole = {"architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5", "image_token_id": 90,
             "text_config": text | {"attn_output_gate": True, "full_attention_interval": 2, "mamba_ssm_dtype": "float32",
                                    "mlp_only_layers": [], "mtp_num_hidden_layers": 1},
             "tie_word_embeddings": text["tie_word_embeddings"], "vision_config": {"model_type": "qwen3_5_vision", "depth": 1}}
    (folder / "config.json").write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")


def gemma4_config(**more):
    rope = {"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    return transformers.Gemma4TextConfig(**dict(
        vocab_size=97, hidden_size=24, intermediate_size=20, num_hidden_layers=6, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, global_head_dim=16, max_position_embeddings=256, rms_norm_eps=1e-6,
        sliding_window=8, layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
        rope_parameters=rope, final_logit_softcapping=3.0, vocab_size_per_layer_input=97, hidden_size_per_layer_input=6,
        num_kv_shared_layers=3, use_double_wide_mlp=True, tie_word_embeddings=True,
        attn_implementation="eager") | more)


def gemma4_tiny():
    c = gemma4_config()
    old = {"rope_parameters": c.rope_parameters, "head_dim": 8, "global_head_dim": 16, "per_layer_config": None}
    return randomise(transformers.Gemma4ForCausalLM(c), 0.25), old, "30KB"


def gemma4_kv_tiny():
    c = gemma4_config(num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, num_global_key_value_heads=1,
                      layer_types=["sliding_attention", "sliding_attention", "full_attention"], attention_k_eq_v=True,
                      hidden_size_per_layer_input=0, num_kv_shared_layers=0, use_double_wide_mlp=False,
                      final_logit_softcapping=None)
    old = {"rope_parameters": c.rope_parameters, "head_dim": 8, "global_head_dim": 16, "num_key_value_heads": 2,
           "num_global_key_value_heads": 1, "per_layer_config": None}
    return randomise(transformers.Gemma4ForCausalLM(c), 0.25), old, "10GB"


FOLDERS = {f.__name__: f for f in (llama_tiny, llama_untied, qwen2_tiny, qwen3_tiny, gemma3_tiny, gemma4_tiny, gemma4_kv_tiny, mistral_tiny,
                                   smollm3_tiny,
                                   granite_tiny, granite4_tiny, phi3_tiny, gpt2_tiny,
                                   lfm2_tiny, qwen3_moe_tiny, gpt_oss_tiny, gpt_oss_mxfp4,
                                   qwen3_5_tiny, qwen3_5_heads)}


# ---- what transformers says ------------------------------------------------------------------------------------------

def draw_sequence(length, prefix, vocab):
    tokens = torch.randint(3, vocab, (length,)).tolist()  # 0..2 are left to pad, bos, eos
    return {"tokens": tokens, "targets": [int(i >= max(prefix, 1)) for i in range(length)]}


def logits_of(model, tokens):
    return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]


def hidden_states(model, tokens):
    """Embedding's and each layer's output, then the last norm's, by hooks: what each module truly returned."""
    inner, found, hooks = model.base_model, {}, []

    def keep(name):
        return lambda module, inputs, output: found.__setitem__(
            name, (output[0] if isinstance(output, tuple) else output)[0].detach().clone())
    if model.config.model_type == "gpt2":  # drop is behind the sum of both embeddings
        first, last, layers = inner.drop, inner.ln_f, inner.h
    elif model.config.model_type == "lfm2":
        first, last, layers = inner.embed_tokens, inner.embedding_norm, inner.layers
    else:
        first, last, layers = inner.embed_tokens, inner.norm, inner.layers
    modules = [("hidden.0", first), ("hidden.norm", last), *((f"hidden.{i + 1}", l) for i, l in enumerate(layers))]
    for name, module in modules:
        hooks.append(module.register_forward_hook(keep(name)))
    with torch.no_grad():
        logits_of(model, tokens)
    for hook in hooks:
        hook.remove()
    found["hidden.0"] *= getattr(inner, "embedding_multiplier", 1)  # Granite's is outside its embedding
    return found


def generate(model, prompt, penalty):
    """-> ids, and the least gap between the best and the second logit: what float noise would have to reach."""
    out = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                         do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=None, pad_token_id=0,
                         repetition_penalty=penalty, output_scores=True, return_dict_in_generate=True)
    best = [s[0].topk(2).values for s in out.scores]
    return out.sequences[0, len(prompt):].tolist(), min(float(b[0] - b[1]) for b in best)


def train(model, batches, optimizer=OPTIMIZER, auxiliary=None):
    """The loop to be reproduced; sequences run one by one, so that no padding is involved."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [{"params": [p for _, p in named if p.dim() >= 2], "weight_decay": optimizer["weight_decay"]},
              {"params": [p for _, p in named if p.dim() < 2], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=optimizer["lr"], betas=optimizer["betas"], eps=optimizer["eps"],
                              foreach=False)
    losses, norms = [], []
    for batch in batches:
        adamw.zero_grad()
        count = sum(sum(s["targets"]) for s in batch)
        loss = 0.0
        for s in batch:
            part = chosen_nll(logits_of(model, s["tokens"]), s["tokens"], s["targets"]) / count
            part.backward()
            loss += float(part.detach())
        if auxiliary:
            part = auxiliary(batch)
            part.backward()
            loss += float(part.detach())
        losses.append(loss)
        norms.append(float(torch.nn.utils.clip_grad_norm_([p for _, p in named], optimizer["clip_norm"])))
        adamw.step()
    return losses, norms


def checksums(named):
    return {n: {"sum": float(p.detach().double().sum()), "abs_sum": float(p.detach().double().abs().sum())}
            for n, p in named}


def save_adapter(model, folder, base_name):
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base_name
    config["target_modules"] = sorted(config["target_modules"])  # a set in peft: its order changes from run to run
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def adapted(model, rank, alpha, experts=False):
    # peft's all-linear goes to experts too
    moe = getattr(model.config, "num_experts", 0)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"] if moe else "all-linear"
    return peft.get_peft_model(model, peft.LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=targets, lora_dropout=0.0, bias="none", use_rslora=False,
        task_type="CAUSAL_LM", target_parameters=EXPERTS if experts else None))


def lora_parameters(model):
    return [(n.replace(".default", ""), p) for n, p in model.named_parameters() if p.requires_grad]


def expectations(model, sequences):
    """Everything about the untouched model."""
    json_part = {"made_by": made_by(), "sequences": sequences}
    tensors = {}
    sums, counts = [], []
    with torch.no_grad():
        for n, s in enumerate(sequences):
            tensors[f"logits.{n}"] = logits_of(model, s["tokens"]).clone()
            sums.append(float(chosen_nll(tensors[f"logits.{n}"], s["tokens"], s["targets"])))
            counts.append(sum(s["targets"]))
    json_part["loss"] = {"sum": sums, "mean": [a / c if c else 0.0 for a, c in zip(sums, counts)],
                         "targets": counts, "total_sum": sum(sums), "total_mean": sum(sums) / sum(counts)}
    last = sequences[-1]
    labels = torch.tensor([[t if m else -100 for t, m in zip(last["tokens"], last["targets"])]])
    theirs = float(model(input_ids=torch.tensor([last["tokens"]]), labels=labels).loss.detach())
    assert abs(theirs - json_part["loss"]["mean"][-1]) < 1e-5, "our reading of `labels` is not transformers'"
    json_part["generation"] = []
    for s in sequences:
        row = {"prompt": s["tokens"]}
        row["greedy"], margin = generate(model, s["tokens"], 1.0)
        row["greedy_repetition_penalty_1.3"], penalised = generate(model, s["tokens"], 1.3)
        row["least_margin"] = min(margin, penalised)
        assert row["least_margin"] > 5e-4, f"greedy choice is too close to call: {row['least_margin']}; change the seed"
        json_part["generation"].append(row)
    return json_part, tensors


def draw_batches(vocab):
    lengths = ((5, 9), (12, 3, 17), (2, 21, 6), (11, 14))  # seen again and again, so that the loss falls
    rows = [[draw_sequence(n, n // 3, vocab) for n in row] for row in lengths]
    return [rows[step % len(rows)] for step in range(STEPS)]


def checkpoint_parts(name, tensor, architecture):
    """What transformers has as one tensor of all experts is a matrix of each in a checkpoint, but for gpt-oss'."""
    if architecture == "gpt_oss" or not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
        return [(name, tensor)]
    at, part = name.rsplit(".", 1)
    return [(f"{at}.{e}.{which}.weight", half) for e, one in enumerate(tensor)
            for which, half in zip(part.replace("gate_up_proj", "gate_proj up_proj").split(),
                                   one.chunk(2) if part == "gate_up_proj" else [one])]


def make_folder(name, out):
    seeded(name)
    model, old_config, shard = FOLDERS[name]()
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model.save_pretrained(folder, max_shard_size=shard)
    if beside := getattr(model, "beside", None):
        put_into_whole(folder, beside)
    dense = folder  # what transformers opens
    if packed := getattr(model, "packed", None):
        scratch = tempfile.TemporaryDirectory()
        dense = Path(scratch.name) / name
        shutil.copytree(folder, dense)
        state = safetensors_torch.load_file(folder / "model.safetensors")
        kept = {k: v for k, v in state.items() if k + "_blocks" not in packed}
        safetensors_torch.save_file(kept | packed, folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn",
                                                                                            "model.layers.*.mlp.router"]}
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    config = json.loads((folder / "config.json").read_text())  # the same, as transformers 4 wrote it
    config = config.get("text_config", config)
    old = {k: v for k, v in config.items() if k not in ("rope_parameters", "dtype")} | old_config | {"torch_dtype": "float32"}
    for key in ("layer_types", "per_layer_config"):  # which those versions do not write
        if old.get(key, 0) is None:
            del old[key]
    (folder / "config.v4.json").write_text(json.dumps(old, indent=2, sort_keys=True) + "\n")

    sequences = [draw_sequence(n, p, model.config.vocab_size) for n, p in zip(LENGTHS, PREFIXES)]
    batches = draw_batches(model.config.vocab_size)
    expected, tensors = expectations(model, sequences)
    longest = sequences[-1]
    tensors |= hidden_states(model, longest["tokens"])

    model.zero_grad()
    (chosen_nll(logits_of(model, longest["tokens"]), longest["tokens"], longest["targets"])
     / sum(longest["targets"])).backward()
    for n, p in model.named_parameters():
        for name, part in checkpoint_parts(n, p.grad, model.config.model_type):
            tensors[f"grad.{name}"] = part.clone()
    expected["gradient"] = {"sequence": len(sequences) - 1, "loss": "mean over its targets",
                            "norm": float(torch.stack([p.grad.norm() for p in model.parameters()]).norm())}
    expected["hidden"] = {"sequence": len(sequences) - 1}
    model.zero_grad()

    expected["training"] = {"optimizer": OPTIMIZER, "batches": batches}

    def fresh(attention="eager"):
        kind = type(model)
        return kind.from_pretrained(dense, dtype=torch.float32, attn_implementation=attention).eval()

    tuned = fresh()
    losses, norms = train(tuned, batches)
    other = "sdpa" if model._supports_sdpa else "eager"
    again, _ = train(fresh(other), batches)
    expected["training"]["full"] = {
        "losses": losses, "grad_norms": norms, "noise": max(abs(a - b) for a, b in zip(losses, again)),
        "final": checksums(tuned.named_parameters())}
    with torch.no_grad():
        tensors["full.logits"] = logits_of(tuned, longest["tokens"]).clone()

    seeded(name + "/lora")
    lora = adapted(fresh(), rank=4, alpha=8)
    base_name = f"tests/data/models/{name}"
    save_adapter(lora, folder / "adapter_initial", base_name)
    losses, norms = train(lora, batches)
    save_adapter(lora, folder / "adapter_trained", base_name)
    again, _ = train(peft.PeftModel.from_pretrained(fresh(other), folder / "adapter_initial", is_trainable=True), batches)
    expected["training"]["lora"] = {
        "rank": 4, "alpha": 8, "losses": losses, "grad_norms": norms,
        "noise": max(abs(a - b) for a, b in zip(losses, again)), "final": checksums(lora_parameters(lora))}
    with torch.no_grad():
        tensors["lora.logits"] = logits_of(lora, longest["tokens"]).clone()
        reread = peft.PeftModel.from_pretrained(fresh(), folder / "adapter_trained").eval()
        assert torch.equal(tensors["lora.logits"], logits_of(reread, longest["tokens"])), "peft does not read what it wrote"
        if dense is folder:
            check_old_config(type(model), folder, tensors["logits.2"], longest["tokens"])

    write_json(folder / "expected.json", expected)
    save_tensors(tensors, folder / "expected.safetensors")
    if dense is folder and getattr(model.config, "num_experts", 0):
        make_experts(folder, fresh, expected)
        make_balance(folder, fresh, expected)
    return folder


def make_experts(folder, fresh, expected):
    """LoRA on attention and experts; B begins as zero, as peft's."""
    seeded(folder.name + "/experts")
    lora = adapted(fresh(), rank=3, alpha=6, experts=True)
    base_name = f"tests/data/models/{folder.name}"
    save_adapter(lora, folder / "experts_initial", base_name)
    losses, norms = train(lora, expected["training"]["batches"])
    save_adapter(lora, folder / "experts_trained", base_name)
    write_json(folder / "experts.json", {"made_by": made_by(), "rank": 3, "alpha": 6, "losses": losses,
                                         "grad_norms": norms, "final": checksums(lora_parameters(lora))})
    with torch.no_grad():
        save_tensors({"trained.logits": logits_of(lora, expected["sequences"][-1]["tokens"])},
                     folder / "experts.safetensors")


def make_balance(folder, fresh, expected, coefficient=0.5):
    """As train(), with transformers' own function on the routers' logits of the batch, as if it were one padded tensor."""
    from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func
    model = fresh()
    experts = getattr(model.config, "num_experts")
    aux = []

    def auxiliary(batch):
        parts = [model(input_ids=torch.tensor([s["tokens"]]), use_cache=False, output_router_logits=True).router_logits
                 for s in batch]
        aux.append(load_balancing_loss_func(tuple(torch.cat(layer) for layer in zip(*parts)), experts,
                                            model.config.num_experts_per_tok))
        return coefficient * aux[-1]
    losses, norms = train(model, expected["training"]["batches"], auxiliary=auxiliary)
    write_json(folder / "balance.json", {"made_by": made_by(), "router_aux_loss_coef": coefficient, "losses": losses,
                                         "grad_norms": norms, "aux": [float(a.detach()) for a in aux]})


def check_old_config(kind, folder, logits, tokens):
    with tempfile.TemporaryDirectory() as scratch:
        for f in folder.glob("*.safetensors*"):
            if not f.name.startswith("expected"):
                shutil.copy(f, scratch)
        shutil.copy(folder / "config.v4.json", Path(scratch) / "config.json")
        model = kind.from_pretrained(scratch, dtype=torch.float32, attn_implementation="eager").eval()
        assert torch.allclose(logits, logits_of(model, tokens), atol=1e-6), "config.v4.json is another model"


def save_tensors(tensors, path):
    safetensors_torch.save_file({k: v.detach().contiguous() for k, v in tensors.items()}, path, metadata={"format": "pt"})


# ---- GGUF ------------------------------------------------------------------------------------------------------------

def byte_symbols():
    """GPT-2's printable stand-ins for the 256 bytes."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table, extra = {}, 0
    for b in range(256):
        table[b] = chr(b) if b in kept else chr(256 + extra)
        extra += b not in kept
    return [table[b] for b in range(256)]


def random_blocks(shape, kind, std):
    """Any bits are valid weights: random ones reach every scale and every quant, which a quantiser would not.
    The float16 scales are then set so that values have about the deviation asked for."""
    rows, blocks = shape[0], shape[1] // 256
    size = gguf.GGML_QUANT_SIZES[kind][1]
    raw = torch.randint(0, 256, (rows, blocks, size), dtype=torch.uint8).numpy()

    def half(values):
        return np.ascontiguousarray(values.astype(np.float16)).view(np.uint8).reshape(rows, blocks, 2)
    jitter = torch.empty(rows, blocks, 1).uniform_(0.7, 1.3).numpy()
    T = gguf.GGMLQuantizationType
    if kind == T.Q6_K:      # d sc (q - 32): sc is int8 over its whole range
        raw[..., 208:210] = half(jitter * std / (74 * 18.5))
    else:                   # d sc q - dmin m: sc and m are 0 .. 63; dmin takes the mean of q away
        mean, spread = {T.Q4_K: (7.5, 4.6), T.Q5_K: (15.5, 9.2)}[kind]
        d = std / (36 * math.hypot(spread, mean * 0.7))
        raw[..., 0:2], raw[..., 2:4] = half(jitter * d), half(jitter * d * mean)
    return raw.reshape(rows, blocks * size)


def tensor_kinds(name, architecture):
    """Which type each tensor gets: all of those that ftlib reads, over the two files."""
    T = gguf.GGMLQuantizationType
    if "norm" in name or "shortconv.conv" in name or "ssm_conv1d" in name or name.endswith("ssm_a"):
        return T.F32
    if name.endswith(".bias") or any(w in name for w in ("ffn_gate_inp", "attn_sinks", "layer_output_scale")):
        return T.F32
    if architecture == "gpt-oss" and "_exps" in name:
        return T.MXFP4
    if architecture != "gemma3":
        if name.startswith(("token_embd", "output", "position_embd")):
            return T.F32 if name.startswith("position_embd") else T.Q8_0
        return T.Q4_0 if name in ("blk.1.attn_v.weight", "blk.1.ffn_up.weight") else T.Q4_1
    if name.startswith("token_embd"):
        return T.Q8_0
    block, part = int(name.split(".")[1]), name.split(".")[2]
    wide = (T.Q4_K, T.Q6_K, T.Q5_K)          # these need a width that 256 divides: all that read the residual stream
    narrow = (T.Q5_0, T.Q8_0, T.F16, T.Q5_1, T.BF16, T.F32)
    if part in ("attn_output", "ffn_down"):
        return narrow[(block + (part == "ffn_down")) % len(narrow)]
    return wide[(block + ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up").index(part)) % len(wide)]


def write_gguf(path, model, architecture):
    T = gguf.GGMLQuantizationType
    c = model.config
    w = gguf.GGUFWriter(str(path), architecture)
    w.add_name(path.stem)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_block_count(c.num_hidden_layers)
    if architecture == "gpt-oss":
        w.add_sliding_window(c.sliding_window)
        w.add_expert_count(c.num_local_experts)
        w.add_expert_used_count(c.num_experts_per_tok)
        w.add_expert_feed_forward_length(c.intermediate_size)
        w.add_key_length(c.head_dim)
        w.add_value_length(c.head_dim)
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(c.rope_parameters["factor"])
        w.add_rope_scaling_orig_ctx_len(c.rope_parameters["original_max_position_embeddings"])
    if architecture == "gemma4":
        write_gemma4_keys(w, model)
    else:
        w.add_feed_forward_length(c.n_inner if architecture == "gpt2" else c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    if architecture == "gpt2":
        w.add_layer_norm_eps(c.layer_norm_epsilon)
    elif architecture == "lfm2":
        w.add_head_count_kv([c.num_key_value_heads * (kind != "conv") for kind in c.layer_types])
        w.add_layer_norm_rms_eps(c.norm_eps)
        w.add_shortconv_l_cache(c.conv_L_cache)
    elif architecture == "gemma4":
        w.add_layer_norm_rms_eps(c.rms_norm_eps)
    else:
        w.add_head_count_kv(c.num_key_value_heads)
        w.add_layer_norm_rms_eps(c.rms_norm_eps)
    symbols = byte_symbols()
    if architecture == "gemma4":
        w.add_tokenizer_model("gemma4")
        w.add_token_list(GEMMA4_TOKENS)
        w.add_token_scores([-1000.0] * len(GEMMA4_TOKENS))
        w.add_token_types([3, 3, 3, 2, 4] + [6] * 256 + [1] * (len(GEMMA4_TOKENS) - 261))
        w.add_token_merges(GEMMA4_MERGES)
        ids = dict(bos=2, eos=1, unk=3, pad=0)
    elif architecture != "gemma3":
        w.add_vocab_size(c.vocab_size)
        head_dim = getattr(c, "head_dim", c.hidden_size // c.num_attention_heads)
        if architecture in PERMUTED or architecture == "phi3":
            w.add_rope_dimension_count(int(head_dim * c.rope_parameters.get("partial_rotary_factor", 1)))
        if architecture == "granite":
            w.add_attention_scale(c.attention_multiplier)
            w.add_embedding_scale(c.embedding_multiplier)
            w.add_residual_scale(c.residual_multiplier)
            w.add_logit_scale(c.logits_scaling)
        if architecture == "phi3":
            w.add_sliding_window(c.sliding_window or 0)
            original = c.original_max_position_embeddings
            w.add_rope_scaling_orig_ctx_len(original)
            w.add_rope_scaling_attn_factors(
                math.sqrt(1 + math.log(c.max_position_embeddings / original) / math.log(original)))
            for length in ("long", "short"):
                w.add_tensor(f"rope_factors_{length}.weight",
                             np.array(c.rope_parameters[f"{length}_factor"], dtype=np.float32))
        if architecture == "qwen3moe":
            w.add_expert_count(c.num_experts)
            w.add_expert_used_count(c.num_experts_per_tok)
            w.add_expert_feed_forward_length(c.moe_intermediate_size)
        if architecture == "qwen35":
            w.add_full_attention_interval(c.layer_types.index("full_attention") + 1)
            w.add_ssm_conv_kernel(c.linear_conv_kernel_dim)
            w.add_ssm_state_size(c.linear_key_head_dim)
            w.add_ssm_group_count(c.linear_num_key_heads)
            w.add_ssm_time_step_rank(c.linear_num_value_heads)
            w.add_ssm_inner_size(c.linear_num_value_heads * c.linear_value_head_dim)
            w.add_rope_dimension_count(int(c.head_dim * c.rope_parameters["partial_rotary_factor"]))
            w.add_rope_dimension_sections([*c.rope_parameters["mrope_section"], 0])
        if architecture.startswith("qwen3"):
            w.add_key_length(c.head_dim)
            w.add_value_length(c.head_dim)
        if architecture != "gpt2":
            w.add_rope_freq_base(c.rope_parameters["rope_theta"])
        merged = ["th", "the", "Ġthe", "in", "ing"]
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre("smollm" if architecture in PERMUTED else "qwen35" if architecture == "qwen35" else "qwen2")
        w.add_token_list(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *symbols, *merged])
        w.add_token_types([3, 3, 3] + [1] * (256 + len(merged)))
        w.add_token_merges(["t h", "th e", "Ġ the", "i n", "in g"])
        ids = dict(bos=1, eos=2, unk=0, pad=2)
    else:
        w.add_key_length(c.head_dim)
        w.add_value_length(c.head_dim)
        w.add_rope_freq_base(c.rope_parameters["full_attention"]["rope_theta"])
        w.add_sliding_window(c.sliding_window)
        merged = ["th", "the", "▁the", "in", "ing", "▁", *"aeinth"]
        w.add_tokenizer_model("llama")
        w.add_tokenizer_pre("default")
        w.add_token_list(["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{b:02X}>" for b in range(256)), *merged])
        w.add_token_scores([-1000.0] * 260 + [-float(i) for i in range(len(merged))])
        w.add_token_types([3, 3, 3, 2] + [6] * 256 + [1] * len(merged))
        ids = dict(bos=2, eos=1, unk=3, pad=0)
    w.add_add_bos_token(architecture.startswith("gemma"))
    w.add_add_space_prefix(False)
    w.add_bos_token_id(ids["bos"])
    w.add_eos_token_id(ids["eos"])
    w.add_unk_token_id(ids["unk"])
    w.add_pad_token_id(ids["pad"])
    w.add_quantization_version(2)

    state = {k: v.detach().numpy() for k, v in model.state_dict().items() if k != "lm_head.weight" or not c.tie_word_embeddings}
    if architecture == "gemma4":  # as files have it: a buffer, and weights that nothing reads
        state = {n + ".weight" if n.endswith("layer_scalar") else n: v for n, v in state.items()}
        unread = torch.Generator().manual_seed(1)
        for i in range(c.num_hidden_layers - c.num_kv_shared_layers, c.num_hidden_layers):
            for part in ("k_proj", "v_proj", "k_norm"):
                like = state[f"model.layers.{i % 3}.self_attn.{part}.weight"]
                state[f"model.layers.{i}.self_attn.{part}.weight"] = torch.randn(like.shape, generator=unread).numpy()
    top = {v: k for k, v in TOPS.get(architecture, TOP).items()}
    block = {v: k for k, v in BLOCKS[architecture].items()}
    if architecture == "qwen3moe":  # transformers has gate and up of all experts as one tensor
        for name in [n for n in state if n.endswith("experts.gate_up_proj")]:
            gate, up = np.split(state.pop(name), 2, axis=1)
            at = name.rsplit(".", 1)[0]
            state |= {f"{at}.gate_proj.weight": gate, f"{at}.up_proj.weight": up,
                      f"{at}.down_proj.weight": state.pop(f"{at}.down_proj")}
    if architecture == "gpt-oss":  # (E, in, out) with gate and up interleaved; sinks have no ending
        for name in [n for n in state if ".experts." in n]:
            value, (at, part) = state.pop(name), name.rsplit(".", 1)
            kind = "bias" if part.endswith("_bias") else "weight"
            which = ["gate_proj", "up_proj"] if part.startswith("gate_up") else ["down_proj"]
            for i, one in enumerate(which):
                value_of = value[..., i::len(which)]
                state[f"{at}.{one}.{kind}"] = value_of.swapaxes(1, 2) if kind == "weight" else value_of
        state |= {n + ".weight": state.pop(n) for n in [n for n in state if n.endswith("sinks")]}
    for name, value in state.items():
        stem, kind = name.rsplit(".", 1)
        if bare := next((ours for ours, theirs in BARE.items() if name.endswith("." + theirs)), None):
            ours = f"blk.{stem.split('.')[2]}.{bare}"
        else:
            ours = top[stem] if stem in top else f"blk.{stem.split('.')[2]}.{block['.'.join(stem.split('.')[3:])]}"
            ours += f".{kind}"
        kind = tensor_kinds(ours, architecture)
        if architecture == "gpt2" and value.ndim == 2 and ours.startswith("blk."):
            value = value.T
        if name.endswith("A_log"):
            value = -np.exp(value)
        if architecture in ("lfm2", "qwen35") and value.ndim == 3:
            value = value[:, 0]
        if architecture == "qwen35" and (at := tile_of(ours, c.linear_num_key_heads, c.linear_key_head_dim)):
            value = tiled(value, c.linear_num_key_heads, c.linear_num_value_heads, *at)
        if architecture in PERMUTED and ".attn_q." in ours:
            value = permute(value, c.num_attention_heads)
        if architecture in PERMUTED and ".attn_k." in ours:
            value = permute(value, c.num_key_value_heads)
        if architecture in SHIFTED and name.endswith("norm.weight") and "linear_attn" not in name:
            value = value + np.float32(1)
        if kind in (T.Q4_K, T.Q5_K, T.Q6_K):
            data = random_blocks(value.shape, kind, float(value.std()))
        else:
            data = gguf.quants.quantize(np.ascontiguousarray(value), kind)
        w.add_tensor(ours, data, raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def llama_q4_1():
    c = transformers.LlamaConfig(
        vocab_size=264, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5})
    return randomise(transformers.LlamaForCausalLM(c), 0.2), "llama"


def qwen2_q4_1():
    c = transformers.Qwen2Config(
        vocab_size=264, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-6, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    return randomise(transformers.Qwen2ForCausalLM(c), 0.2), "qwen2"


def qwen3_q4_1():
    c = transformers.Qwen3Config(
        vocab_size=264, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=256, rms_norm_eps=1e-6, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    return randomise(transformers.Qwen3ForCausalLM(c), 0.4), "qwen3"


def gemma3_q4_k():
    c = transformers.Gemma3TextConfig(
        vocab_size=272, hidden_size=256, intermediate_size=64, num_hidden_layers=6, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, query_pre_attn_scalar=32, max_position_embeddings=256, sliding_window=8,
        rms_norm_eps=1e-6, tie_word_embeddings=True,
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 1e6},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}})
    return randomise(transformers.Gemma3ForCausalLM(c), 0.05), "gemma3"


def smollm3_q4_1():
    c = transformers.SmolLM3Config(
        vocab_size=264, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-6, tie_word_embeddings=True,
        pad_token_id=2, bos_token_id=1, eos_token_id=2, rope_parameters={"rope_type": "default", "rope_theta": 5e6})
    return randomise(transformers.SmolLM3ForCausalLM(c), 0.2), "smollm3"


def granite_q4_1():
    c = transformers.GraniteConfig(
        vocab_size=264, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=True,
        embedding_multiplier=12.0, attention_multiplier=0.125, residual_multiplier=0.25, logits_scaling=8.0,
        rope_parameters={"rope_type": "default", "rope_theta": 1e7})
    return randomise(transformers.GraniteForCausalLM(c), 0.3), "granite"


def gpt2_q4_1():
    c = transformers.GPT2Config(vocab_size=264, n_embd=64, n_inner=96, n_layer=2, n_head=4, n_positions=256,
                                resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2)
    return randomise(transformers.GPT2LMHeadModel(c), 0.2), "gpt2"


def lfm2_q4_1():
    c = transformers.Lfm2Config(
        vocab_size=264, hidden_size=64, intermediate_size=96, block_auto_adjust_ff_dim=False, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, norm_eps=1e-5,
        layer_types=["conv", "full_attention", "conv"], tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    return randomise(transformers.Lfm2ForCausalLM(c), 0.2), "lfm2"


def qwen3_moe_q4_1():
    c = transformers.Qwen3MoeConfig(
        vocab_size=264, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=256, rms_norm_eps=1e-6, tie_word_embeddings=False,
        num_experts=6, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    return randomise(transformers.Qwen3MoeForCausalLM(c), 0.4), "qwen3moe"


def gpt_oss_fp4():
    c = gpt_oss_config()
    c.vocab_size, c.hidden_size, c.intermediate_size = 264, 64, 64
    return randomise(transformers.GptOssForCausalLM(c), 0.4), "gpt-oss"


def qwen35_q4_1(**more):
    rope = {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.25, "mrope_interleaved": True,
            "mrope_section": [2, 1, 1]}
    sizes = dict(linear_key_head_dim=16, linear_value_head_dim=16, linear_num_key_heads=2, linear_num_value_heads=2)
    c = qwen3_5_config(vocab_size=264, hidden_size=64, intermediate_size=96, num_hidden_layers=4, head_dim=32,
                       layer_types=["linear_attention", "full_attention"] * 2, rope_parameters=rope, **(sizes | more))
    return randomise(transformers.Qwen3_5ForCausalLM(c), 0.2), "qwen35"


def qwen35_heads_q4_1():  # more heads of values than of keys; blocks of 32 reach over heads of 16
    return qwen35_q4_1(linear_num_value_heads=6)


def phi3_q4_1():
    factors = {"short_factor": [1.0, 1.0, 1.25, 1.5, 1.75, 2.0], "long_factor": [1.0, 1.25, 1.5, 2.0, 3.0, 4.0]}
    c = transformers.Phi3Config(
        vocab_size=264, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, original_max_position_embeddings=16, rms_norm_eps=1e-5,
        tie_word_embeddings=True, pad_token_id=2, bos_token_id=1, eos_token_id=2,
        rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75, **factors})
    return randomise(transformers.Phi3ForCausalLM(c), 0.2), "phi3"


# BPE over characters: some that no merge reaches (▁ö), newlines in runs, and one token that is sought before all.
GEMMA4_MERGES = ["t h", "th e", "▁ the", "i n", "in g", "▁ ▁", "▁▁ ▁▁", "▁▁ ▁", "▁ ▁▁", "e r", "\n \n", "\n\n \n", "\n \n\n",
                 "\n\n \n\n", "h e", "▁ t", "▁t he", "ö l"]
GEMMA4_TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", "<|tool>", *(f"<0x{b:02X}>" for b in range(256)),
                 *dict.fromkeys([*"▁\nabcdeghilnorstöü.,:A", "", *(m.replace(" ", "") for m in GEMMA4_MERGES)])]
GEMMA4_TOKENS = [t for t in GEMMA4_TOKENS if t]
GEMMA4_TEXTS = ["the thing", "  the  other\n\n\nline", "\n", "\n\n\n\n\n the", "söl öl schön", "a\tb", "안녕, the ring", "▁the",
                "in\n ing", "<|tool>the<|tool>  x", "ALL: thethe.", ""]


def write_gemma4_keys(w, model):
    c = model.config
    windows = [kind == "sliding_attention" for kind in c.layer_types]
    layers = model.model.layers
    full = layers[windows.index(False)].self_attn
    def each(values):  # the converter writes lists where layers differ
        return values if len(set(values)) > 1 else values[0]
    w.add_feed_forward_length(each([layer.mlp.intermediate_size for layer in layers]))
    w.add_head_count_kv(each([layer.self_attn.k_proj.out_features // layer.self_attn.head_dim
                              for layer in layers[:c.num_hidden_layers - c.num_kv_shared_layers]]))
    w.add_shared_kv_layers(c.num_kv_shared_layers)
    w.add_embedding_length_per_layer_input(c.hidden_size_per_layer_input)
    w.add_sliding_window(c.sliding_window)
    w.add_sliding_window_pattern(windows)
    w.add_key_length(full.head_dim)
    w.add_value_length(full.head_dim)
    w.add_key_length_swa(layers[0].self_attn.head_dim)
    w.add_value_length_swa(layers[0].self_attn.head_dim)
    w.add_rope_dimension_count(full.head_dim)
    w.add_rope_dimension_count_swa(layers[0].self_attn.head_dim)
    w.add_rope_freq_base(c.rope_parameters["full_attention"]["rope_theta"])
    w.add_rope_freq_base_swa(c.rope_parameters["sliding_attention"]["rope_theta"])
    w.add_final_logit_softcapping(c.final_logit_softcapping or 0.0)  # llama.cpp's is 30 where there is none
    turning = int(full.head_dim * c.rope_parameters["full_attention"]["partial_rotary_factor"] / 2)
    w.add_tensor("rope_freqs.weight", np.array([1.0] * turning + [1e30] * (full.head_dim // 2 - turning), dtype=np.float32))


def gemma4_ids():
    """Ids of texts by Hugging Face's tokenizers, of the same tokens and merges as Gemma's tokenizer.json has them."""
    tokenizers = need("tokenizers")
    bpe = tokenizers.models.BPE(vocab={t: i for i, t in enumerate(GEMMA4_TOKENS)}, byte_fallback=True, fuse_unk=True,
                                merges=[tuple(m.split(" ")) for m in GEMMA4_MERGES], unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(bpe)
    tokenizer.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.add_special_tokens(GEMMA4_TOKENS[:4])
    tokenizer.add_tokens([tokenizers.AddedToken("<|tool>", normalized=False)])
    return [{"text": t, "ids": tokenizer.encode(t).ids} for t in GEMMA4_TEXTS]


def gemma4_q4_1():
    c = gemma4_config(vocab_size=len(GEMMA4_TOKENS), vocab_size_per_layer_input=len(GEMMA4_TOKENS), hidden_size=64,
                      intermediate_size=64, head_dim=32, global_head_dim=64, hidden_size_per_layer_input=32,
                      final_logit_softcapping=8.0, bos_token_id=2, eos_token_id=1, pad_token_id=0)
    return randomise(transformers.Gemma4ForCausalLM(c), 0.2), "gemma4"


def gemma4_kv_q4_1():
    c = gemma4_config(vocab_size=len(GEMMA4_TOKENS), vocab_size_per_layer_input=len(GEMMA4_TOKENS), hidden_size=64,
                      intermediate_size=64, head_dim=32, global_head_dim=64, num_hidden_layers=3, num_attention_heads=4,
                      num_key_value_heads=2, num_global_key_value_heads=1, attention_k_eq_v=True, hidden_size_per_layer_input=0,
                      layer_types=["sliding_attention", "sliding_attention", "full_attention"], num_kv_shared_layers=0,
                      use_double_wide_mlp=False, final_logit_softcapping=None, bos_token_id=2, eos_token_id=1, pad_token_id=0)
    return randomise(transformers.Gemma4ForCausalLM(c), 0.2), "gemma4"


GGUFS = {f.__name__: f for f in (llama_q4_1, qwen2_q4_1, qwen3_q4_1, gemma3_q4_k, smollm3_q4_1, granite_q4_1, phi3_q4_1,
                                 gpt2_q4_1, lfm2_q4_1, qwen3_moe_q4_1, gpt_oss_fp4, qwen35_q4_1, qwen35_heads_q4_1,
                                 gemma4_q4_1, gemma4_kv_q4_1)}


def make_gguf(name, out):
    seeded(name)
    model, architecture = GGUFS[name]()
    path = out / f"{name}.gguf"
    write_gguf(path, model, architecture)
    model = open_model(path)
    sequences = [draw_sequence(n, p, model.config.vocab_size) for n, p in zip(LENGTHS, PREFIXES)]
    batches = draw_batches(model.config.vocab_size)
    expected, tensors = expectations(model, sequences)
    if architecture == "gemma4":
        expected["tokenizer"] = gemma4_ids()
    lora = adapted(model, rank=4, alpha=8)  # the frozen base is the file's quantised one
    formula_lora(lora)
    losses, norms = train(lora, batches)
    expected["training"] = {"optimizer": OPTIMIZER, "batches": batches,
                            "lora": {"rank": 4, "alpha": 8, "initial": "A[i][j] = ((31 i + 17 j) mod 64 - 32) / 1024, B = 0",
                                     "losses": losses, "grad_norms": norms, "final": checksums(lora_parameters(lora))}}
    with torch.no_grad():
        tensors["lora.logits"] = logits_of(lora, sequences[-1]["tokens"]).clone()
    write_json(out / f"{name}.expected.json", expected)
    save_tensors(tensors, out / f"{name}.expected.safetensors")
    check_with_llama_cpp(path, sequences, tensors)
    return path


def check_with_llama_cpp(path, sequences, tensors):
    """llama.cpp reads the file too, and agrees as far as its 8-bit activations let it."""
    try:
        import llama_cpp
    except ImportError:
        print(f"{path.name}: not compared with llama.cpp (llama-cpp-python is not installed)")
        return
    llm = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False)
    for n, s in enumerate(sequences):
        llm.reset()
        llm.eval(s["tokens"])
        theirs = torch.tensor(np.array(llm.scores[:len(s["tokens"])]))
        ours = tensors[f"logits.{n}"]
        error = float((theirs - ours).pow(2).mean() / ours.pow(2).mean())
        print(f"{path.name}: sequence {n}: normalised squared error to llama.cpp {error:.1e}")
        assert error < 3e-3, "llama.cpp reads another model from this file"
    llm.close()


# ---- a real file -----------------------------------------------------------------------------------------------------

TEXTS = ["The highest mountain on Earth is Mount Everest, which rises above the Himalayas.",
         "def add(a, b):\n    return a + b\n",
         "지구에서 가장 높은 산은 무엇인가요?"]
FACTS = [("What is the highest mountain on Earth?", "Mount Everest"),
         ("Which planet is the largest in the solar system?", "Jupiter"),
         ("What is the chemical symbol for gold?", "Au"),
         ("지구에서 가장 높은 산은 무엇인가요?", "에베레스트산"),
         ("Who wrote Romeo and Juliet?", "William Shakespeare"),
         ("What is the capital of France?", "Paris")]


def make_real(path, out):
    encode = open_tokenizer(path)
    model = open_model(path)
    bos = [model.config.bos_token_id] if model.config.model_type == "gemma3_text" else []
    result = {"made_by": made_by(), "file": path.name, "bytes": path.stat().st_size, "texts": []}
    with torch.no_grad():
        for text in TEXTS:
            ids = bos + encode(text)
            logits = logits_of(model, ids)
            top = logits[-1].topk(20)
            targets = [int(i > 0) for i in range(len(ids))]
            row = {"text": text, "tokens": ids, "top_ids": top.indices.tolist(), "top_logits": top.values.tolist(),
                   "last_sum": float(logits[-1].double().sum()), "last_abs_sum": float(logits[-1].double().abs().sum()),
                   "all_sum": float(logits.double().sum()), "all_abs_sum": float(logits.double().abs().sum()),
                   "target_logits": [float(logits[i - 1, t]) for i, t in enumerate(ids) if i > 0],
                   "mean_loss": float(chosen_nll(logits, ids, targets)) / sum(targets)}
            row["greedy"], row["least_margin"] = generate(model, ids, 1.0)
            result["texts"].append(row)
    records = []
    for question, answer in FACTS:
        prompt = bos + encode(f"Q: {question}\nA:")
        ids = prompt + encode(f" {answer}") + [model.config.eos_token_id]
        records.append({"tokens": ids, "targets": [int(i >= len(prompt)) for i in range(len(ids))]})
    batches = [[records[(2 * step + k) % len(records)] for k in range(2 + step % 2)] for step in range(STEPS)]
    optimizer = OPTIMIZER | {"lr": 5e-4}
    lora = adapted(model, rank=16, alpha=32)
    formula_lora(lora)
    losses, norms = train(lora, batches, optimizer)
    formula_lora(lora)
    model.set_attn_implementation("sdpa")
    again, _ = train(lora, batches, optimizer)
    result["training"] = {"optimizer": optimizer, "batches": batches,
                          "lora": {"rank": 16, "alpha": 32, "losses": losses, "grad_norms": norms,
                                   "noise": max(abs(a - b) for a, b in zip(losses, again)),
                                   "initial": "A[i][j] = ((31 i + 17 j) mod 64 - 32) / 1024, B = 0"}}
    write_json(out, result)


# ---- command line ----------------------------------------------------------------------------------------------------

def make(names, out):
    for name in names:
        path = make_folder(name, out) if name in FOLDERS else make_gguf(name, out)
        files = [f for f in path.rglob("*") if f.is_file()] if path.is_dir() else list(out.glob(f"{name}.*"))
        for f in files:
            f.chmod(0o644)
        print(f"{name}: {sum(f.stat().st_size for f in files):,} bytes in {len(files)} files", flush=True)


def differences(a, b, where=""):
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for k in a if k != "made_by" for d in differences(a[k], b[k], f"{where}.{k}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b)) for d in differences(x, y, f"{where}[{i}]")]
    if isinstance(a, float) and isinstance(b, float):
        return [] if abs(a - b) <= 2e-5 * max(1.0, abs(a)) else [f"{where}: {a} and {b}"]
    return [] if a == b else [f"{where}: {a} and {b}"]


def check(names):
    wrong = []
    with tempfile.TemporaryDirectory() as scratch:
        make(names, Path(scratch))
        for new in sorted(f for f in Path(scratch).rglob("*") if f.is_file()):
            old = ROOT / new.relative_to(scratch)
            if not old.is_file():
                wrong.append(f"{old}: missing")
            elif new.suffix == ".json":
                wrong += differences(json.loads(old.read_text()), json.loads(new.read_text()), new.name)
            elif new.suffix == ".safetensors":
                a, b = (safetensors_torch.load_file(f) for f in (old, new))
                wrong += [f"{old}: {k}" for k in a.keys() | b.keys()
                          if k not in a or k not in b or not torch.allclose(a[k], b[k], rtol=2e-5, atol=2e-5)]
            elif old.read_bytes() != new.read_bytes():
                wrong.append(f"{old}: other bytes")
    print("\n".join(wrong) if wrong else "all as committed")
    return 1 if wrong else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*FOLDERS, *GGUFS], action="append", help="make this one alone")
    parser.add_argument("--out", type=Path, default=ROOT, help=f"folder to write to (default {ROOT})")
    parser.add_argument("--check", action="store_true", help="remake and compare with what is committed")
    parser.add_argument("--real", nargs=2, type=Path, metavar=("MODEL.gguf", "OUT.json"), help="expectations of a real file")
    args = parser.parse_args()
    torch.set_num_threads(2 if args.real else 1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if args.real:
        return make_real(*args.real)
    names = args.only or [*FOLDERS, *GGUFS]
    return check(names) if args.check else make(names, args.out)


if __name__ == "__main__":
    sys.exit(main())
