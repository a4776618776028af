#!/usr/bin/env python3
"""Makes tests/goldens/tiny-llama/: a random Llama as a Hugging Face folder, with its logits by transformers.

Usage: make_tiny_llama.py FOLDER
Needs torch and transformers (a throw-away environment; made with transformers 5.17).

bf16 weights large enough that attention is far from uniform, norms away from 1, 6 query and 2 KV heads, a head size apart from
hidden / heads, llama3 RoPE scaling, its own head, two shards with an index.
"""
import sys

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import LlamaConfig, LlamaForCausalLM


def main() -> None:
    folder = sys.argv[1]
    torch.manual_seed(7)
    config = LlamaConfig(
        hidden_size=96, intermediate_size=224, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
        head_dim=24, vocab_size=211, max_position_embeddings=512, tie_word_embeddings=False, rms_norm_eps=1e-5,
        bos_token_id=1, eos_token_id=[2, 5],
        rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 32})
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.8)
            else:
                parameter.normal_(0, 1.6 / parameter.shape[1] ** 0.5)
    model = model.to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="300KB")
    ids = torch.randint(0, 211, (3, 80))
    with torch.no_grad():
        rounded = model(ids).logits.float().numpy()
        exact = model.float()(ids).logits.numpy()
    print("logit deviation", exact.std(), "bf16 RMS error", np.sqrt(np.mean((rounded - exact) ** 2)))
    save_file({"input_ids": ids.numpy(), "logits": exact, "logits_bf16": rounded}, folder + "/golden.safetensors")


if __name__ == "__main__":
    main()
