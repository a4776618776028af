#!/usr/bin/env python3
"""Makes tests/goldens/smollm2-135m.safetensors: logits of SmolLM2-135M-Instruct by Hugging Face transformers.

Usage: make_smollm2_golden.py MODEL.gguf OUT.safetensors
Needs torch, transformers, accelerate, gguf and safetensors (a throw-away environment; made with transformers 5.17).

The oracle reads the same quantised file (transformers dequantises it to fp32), so the file measures weft's arithmetic,
not the quantisation. Four texts of one length, prose and code; few positions, so that the file stays small.
"""
import sys

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = [
    "The lighthouse keeper wrote down the weather every evening, and in forty years he missed the entry only twice. "
    "On the first occasion a ship had run aground on the shoal below the tower, and he rowed out with his brother to "
    "bring the crew ashore. On the second he was ill, and his daughter, who was nine, drew a cloud in the margin. "
    "When the station was closed the books went to the county archive, where a student found the drawing and asked "
    "who had made it. Nobody at the archive could say, but the woman who answered the letter could.",
    "def merge_intervals(intervals):\n    \"\"\"Return the union of closed intervals, sorted by start.\"\"\"\n"
    "    merged = []\n    for start, end in sorted(intervals):\n        if merged and start <= merged[-1][1]:\n"
    "            merged[-1][1] = max(merged[-1][1], end)\n        else:\n            merged.append([start, end])\n"
    "    return merged\n\n\nclass Counter:\n    def __init__(self):\n        self.counts = {}\n\n"
    "    def add(self, key, amount=1):\n        self.counts[key] = self.counts.get(key, 0) + amount\n"
    "        return self.counts[key]\n\n    def most_common(self, n):\n        items = self.counts.items()\n"
    "        return sorted(items, key=lambda kv: -kv[1])[:n]\n",
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWhy is the sky blue during the day "
    "but red at sunset?<|im_end|>\n<|im_start|>assistant\nSunlight contains all colours. Air molecules scatter short "
    "wavelengths much more strongly than long ones, so blue light reaches our eyes from every direction of the sky. "
    "At sunset the light travels a longer way through the air, most of the blue is scattered out of the beam, and "
    "what remains is orange and red.<|im_end|>\n<|im_start|>user\nAnd why is it not violet?<|im_end|>\n",
    "Table 3 lists the yields for 2019, 2020 and 2021 (in tonnes per hectare): wheat 7.8, 6.9, 7.4; barley 6.1, 5.8, "
    "6.0; oats 5.2, 4.9, 5.3. La récolte de 2020 fut mauvaise; im Süden war es zu trocken. The mean over the three "
    "years is 7.37 for wheat, which is 4 % below the mean of the decade. Costs per hectare rose from 612 to 655 euros, "
    "mostly because of fertiliser (+18 %) and diesel (+9 %), while seed and labour stayed almost unchanged.",
]
TOKENS = 96
POSITIONS = [3, 31, 63, 95]


def main() -> None:
    gguf, out = sys.argv[1:3]
    folder, name = gguf.rsplit("/", 1)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    rows = [tokenizer(text)["input_ids"][:TOKENS] for text in TEXTS]
    for text, row in zip(TEXTS, rows):
        assert len(row) == TOKENS, (len(row), text[:30])
    input_ids = torch.tensor(rows)
    positions = torch.tensor([POSITIONS] * len(rows))

    def logits(dtype):
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=name, dtype=dtype, attn_implementation="eager").eval()
        with torch.no_grad():
            full = model(input_ids).logits.float()
        return torch.stack([full[b, positions[b]] for b in range(len(rows))]).numpy()

    exact, rounded = logits(torch.float32), logits(torch.bfloat16)
    print("logit deviation", exact.std(), "bf16 RMS error", np.sqrt(np.mean((rounded - exact) ** 2)))
    save_file({"input_ids": input_ids.numpy().astype(np.int64), "positions": positions.numpy().astype(np.int64),
               "logits": exact.astype(np.float16), "logits_bf16": rounded.astype(np.float16)}, out)


if __name__ == "__main__":
    main()
