#!/usr/bin/env python3
"""Makes tests/goldens/tiny-*/model.gguf from the Hugging Face folders beside them, as llama.cpp's converter would.

Usage: make_gguf_goldens.py
Needs torch, safetensors and gguf (made with gguf 0.19). Names are the package's own; rows of query and key heads of
architecture llama are interleaved as convert_hf_to_gguf.py does; vectors and routers are f32, matrices keep their type.
"""

import json
import pathlib

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

ROOT = pathlib.Path(__file__).resolve().parent.parent / "tests/goldens"
FOLDERS = ["tiny-llama-linear", "tiny-mistral", "tiny-qwen2-yarn", "tiny-qwen3", "tiny-qwen3-moe", "tiny-seed-oss"]
ARCH = {"llama": gguf.MODEL_ARCH.LLAMA, "mistral": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3,
        "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE, "seed_oss": gguf.MODEL_ARCH.SEED_OSS}


def metadata(writer, config):
    heads = config["num_attention_heads"]
    kv_heads, head_dim = config.get("num_key_value_heads", heads), config.get("head_dim", config["hidden_size"] // heads)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config.get("rope_parameters") or (config.get("rope_scaling") or {}) | {"rope_theta": config["rope_theta"]}
    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    if "moe_intermediate_size" in config:
        writer.add_expert_count(config["num_local_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    return heads, kv_heads


def interleave(tensor, heads):
    """Both halves of each head's rows, side by side."""
    return tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def stacked_experts(tensors, config):
    """Tensors of single experts become one per layer."""
    for layer in range(config["num_hidden_layers"]):
        for part in ("gate_proj", "up_proj", "down_proj"):
            names = [f"model.layers.{layer}.mlp.experts.{e}.{part}.weight" for e in range(config["num_local_experts"])]
            if names[0] in tensors:
                tensors[f"model.layers.{layer}.mlp.experts.{part}.weight"] = torch.stack([tensors.pop(n) for n in names])


def make(folder):
    config = json.loads((folder / "config.json").read_text())
    arch = ARCH[config["model_type"]]
    tensors = {}
    for path in folder.glob("model*.safetensors"):
        tensors |= load_file(path)
    if "moe_intermediate_size" in config:
        stacked_experts(tensors, config)
    writer = gguf.GGUFWriter(folder / "model.gguf", gguf.MODEL_ARCH_NAMES[arch])
    heads, kv_heads = metadata(writer, config)
    layers = config["num_hidden_layers"]
    # llama.cpp knows no qwen3moe layer without experts; its tensors get the names that they have elsewhere.
    maps = [gguf.get_tensor_name_map(a, layers) for a in (arch, gguf.MODEL_ARCH.LLAMA)]
    for name, tensor in tensors.items():
        if arch == gguf.MODEL_ARCH.LLAMA and ".q_proj." in name:
            tensor = interleave(tensor, heads)
        if arch == gguf.MODEL_ARCH.LLAMA and ".k_proj." in name:
            tensor = interleave(tensor, kv_heads)
        target = next(filter(None, (m.get_name(name, try_suffixes=(".weight", ".bias")) for m in maps)), None)
        assert target, name
        tensor = tensor.contiguous()
        if tensor.dim() == 1 or "ffn_gate_inp" in target:
            writer.add_tensor(target, tensor.float().numpy())
        elif tensor.dtype == torch.bfloat16:
            writer.add_tensor(target, tensor.view(torch.uint8).numpy(), raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(target, np.ascontiguousarray(tensor.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


for name in FOLDERS:
    make(ROOT / name)
