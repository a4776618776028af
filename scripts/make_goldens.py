#!/usr/bin/env python3
"""Makes tests/goldens/tiny-*/: small random models of every family as Hugging Face folders, with what transformers computes.

Usage: make_goldens.py [--out tests/goldens] [NAME ...]
Needs torch, transformers and tokenizers (a throw-away environment; made with transformers 5.17).

Weights are large enough that attention and routing are far from uniform, norms are away from 1, biases are not zero, head
counts are odd and sizes are no multiples of 32. golden.safetensors holds input_ids, the positions whose logits follow, logits
in fp32 arithmetic, logits_bf16 in bf16 arithmetic, and a greedy continuation (GREEDY tokens): greedy_prompt, greedy_ids,
greedy_margins (top-2 distance in fp32) and greedy_errors (largest error of a logit in bf16 arithmetic).
"""

import argparse
import json
import pathlib

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TOKENS, PROMPT, GREEDY = 48, 12, 64
COMMON = {"max_position_embeddings": 512, "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2}
YARN = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 16}


def case(kind, dtype="bfloat16", shard="1GB", older=False, eos=None, batch=3, positions=16, **config):
    return {"kind": kind, "dtype": dtype, "shard": shard, "older": older, "eos": eos, "batch": batch, "positions": positions,
            "config": COMMON | config}


CASES = {
    # llama3 RoPE scaling, its own head, three shards with an index, several end tokens.
    "tiny-llama": case(
        "Llama", shard="300KB", eos=[2, 5], hidden_size=96, intermediate_size=224, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, head_dim=24, vocab_size=211, rope_parameters={
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32}),
    # Biases everywhere, linear scaling, tied, fp16, the older form of config.json without num_key_value_heads.
    "tiny-llama-linear": case(
        "Llama", dtype="float16", older=True, hidden_size=84, intermediate_size=131, num_hidden_layers=2,
        num_attention_heads=7, num_key_value_heads=7, vocab_size=97, tie_word_embeddings=True, attention_bias=True,
        mlp_bias=True, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}),
    # YaRN with all its options, fp32, two shards.
    "tiny-llama-yarn": case(
        "Llama", dtype="float32", shard="200KB", hidden_size=60, intermediate_size=150, num_hidden_layers=2,
        num_attention_heads=5, num_key_value_heads=5, vocab_size=113, rope_parameters=YARN | {
            "beta_fast": 8.0, "beta_slow": 0.5, "mscale": 1.2, "mscale_all_dim": 0.6, "truncate": False}),
    # A window shorter than the text.
    "tiny-mistral": case(
        "Mistral", hidden_size=90, intermediate_size=170, num_hidden_layers=3, num_attention_heads=9, num_key_value_heads=3,
        vocab_size=119, sliding_window=11, rope_parameters={"rope_type": "default", "rope_theta": 20000.0}),
    # No window, the head size apart from hidden / heads, the older form.
    "tiny-mistral-full": case(
        "Mistral", older=True, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=1, head_dim=22, vocab_size=101, sliding_window=None,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    # Biases of Q, K and V; a window in the upper layers.
    "tiny-qwen2": case(
        "Qwen2", hidden_size=112, intermediate_size=152, num_hidden_layers=3, num_attention_heads=14, num_key_value_heads=2,
        vocab_size=127, tie_word_embeddings=True, use_sliding_window=True, sliding_window=9, max_window_layers=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    # YaRN in the older form, windows switched off.
    "tiny-qwen2-yarn": case(
        "Qwen2", older=True, hidden_size=70, intermediate_size=128, num_hidden_layers=2, num_attention_heads=7,
        num_key_value_heads=1, vocab_size=103, use_sliding_window=False, rope_parameters=YARN),
    # Normalised heads, their size apart from hidden / heads.
    "tiny-qwen3": case(
        "Qwen3", hidden_size=72, intermediate_size=136, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=3,
        head_dim=20, vocab_size=109, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    # Biases, windows in the layers that the file names.
    "tiny-qwen3-window": case(
        "Qwen3", hidden_size=66, intermediate_size=100, num_hidden_layers=3, num_attention_heads=5, num_key_value_heads=5,
        head_dim=16, vocab_size=107, attention_bias=True, use_sliding_window=True, sliding_window=7,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    "tiny-seed-oss": case(
        "SeedOss", hidden_size=88, intermediate_size=144, num_hidden_layers=2, num_attention_heads=10, num_key_value_heads=2,
        head_dim=14, vocab_size=121, attention_bias=True, attention_out_bias=True, mlp_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e7}),
    # As the 36B model: biases of Q, K and V alone.
    "tiny-seed-oss-qkv": case(
        "SeedOss", hidden_size=64, intermediate_size=104, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=4,
        head_dim=12, vocab_size=111, attention_bias=True, attention_out_bias=False, mlp_bias=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e7}),
    # Experts in all layers but one, their weights adding up to 1. Rounding sends a token to another expert where two are
    # nearly equal, in bf16 arithmetic as in weft's, so that their errors are comparable over many tokens only.
    "tiny-qwen3-moe": case(
        "Qwen3Moe", batch=8, positions=40, hidden_size=56, intermediate_size=90, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
        head_dim=18, vocab_size=115, num_experts=9, num_experts_per_tok=3, moe_intermediate_size=36, norm_topk_prob=True,
        mlp_only_layers=[1], rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    # Experts in every second layer, weights as they are, biases, a window.
    "tiny-qwen3-moe-step": case(
        "Qwen3Moe", batch=8, positions=40, hidden_size=48, intermediate_size=80, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4,
        head_dim=16, vocab_size=105, tie_word_embeddings=True, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=20,
        norm_topk_prob=False, decoder_sparse_step=2, attention_bias=True, use_sliding_window=True, sliding_window=10,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
}


def random_model(spec):
    config = getattr(transformers, spec["kind"] + "Config")(**spec["config"])
    if spec["eos"]:
        config.eos_token_id = spec["eos"]
    model = getattr(transformers, spec["kind"] + "ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.8)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.5)
            else:
                parameter.normal_(0, 1.6 / parameter.shape[-1] ** 0.5)
    return model.to(getattr(torch, spec["dtype"]))


def load(folder, dtype):
    """What a user gets. model.to(dtype) instead would round the frequencies of RoPE, too."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    model.config._experts_implementation = "eager"  # the grouped GEMM of PyTorch wants sizes of multiples of 8
    return model


def older_form(path):
    """config.json as transformers 4 wrote it."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope | {"type": rope.pop("rope_type")}
    config["torch_dtype"] = config.pop("dtype")
    if config["model_type"] == "llama":
        del config["num_key_value_heads"], config["head_dim"]  # as many as query heads, hidden / heads
    path.write_text(json.dumps(config, indent=2) + "\n")


def words(folder, vocab):
    """A vocabulary of as many words as the model has tokens."""
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocab)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


@torch.no_grad()
def greedy(exact, rounded, vocab):
    """Of some prompts, the one whose continuation has the longest run of margins above the error of bf16."""
    prompts = torch.randint(0, vocab, (64, PROMPT))
    ids = prompts
    for _ in range(GREEDY):
        ids = torch.cat([ids, exact(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
    logits = exact(ids).logits[:, PROMPT - 1 : -1].float()
    errors = (rounded(ids).logits[:, PROMPT - 1 : -1].float() - logits).abs().amax(-1)
    top = logits.topk(2).values
    margins = top[..., 0] - top[..., 1]
    run = (margins > 2 * errors).int().cumprod(1).sum(1)
    best = int(run.argmax())
    print("  greedy tokens above the error:", int(run[best]))
    return {"greedy_prompt": prompts[best], "greedy_ids": ids[best, PROMPT:], "greedy_margins": margins[best],
            "greedy_errors": errors[best]}


def make(name, spec, folder):
    torch.manual_seed(7)
    model = random_model(spec)
    model.save_pretrained(folder, max_shard_size=spec["shard"])
    vocab = spec["config"]["vocab_size"]
    batch = spec["batch"]
    ids = torch.randint(0, vocab, (batch, TOKENS))
    positions = torch.stack([torch.randperm(TOKENS)[: spec["positions"]].sort().values for _ in range(batch)])
    exact, rounded = load(folder, torch.float32), load(folder, torch.bfloat16)
    with torch.no_grad():
        rows = torch.arange(batch)[:, None]
        logits, logits_bf16 = exact(ids).logits[rows, positions], rounded(ids).logits.float()[rows, positions]
    print(f"{name}: logit deviation {logits.std():.3f}, bf16 RMS error {(logits_bf16 - logits).square().mean().sqrt():.4f}")
    golden = {"input_ids": ids, "positions": positions, "logits": logits, "logits_bf16": logits_bf16}
    golden |= greedy(exact, rounded, vocab)
    save_file({key: np.ascontiguousarray(value.numpy()) for key, value in golden.items()}, folder / "golden.safetensors")
    words(folder, vocab)
    if spec["older"]:
        older_form(folder / "config.json")


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=root / "tests/goldens")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CASES))
    arguments = parser.parse_args()
    for name in arguments.names or CASES:
        folder = arguments.out / name
        folder.mkdir(parents=True, exist_ok=True)
        make(name, CASES[name], folder)


if __name__ == "__main__":
    main()
