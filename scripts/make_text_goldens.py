#!/usr/bin/env python3
"""Makes the golden files of the text tests from Hugging Face's own libraries.

    python3 -m venv /tmp/venv
    /tmp/venv/bin/pip install tokenizers==0.23.3 transformers==5.23.0 jinja2==3.1.6 gguf==0.19.0
    /tmp/venv/bin/python scripts/make_text_goldens.py SmolLM2-135M-Instruct.Q4_1.gguf

Writes into src/text/testdata: the vocabularies, tokenizers.json (ids and texts) and chat.json (rendered templates).
SmolLM2's vocabulary and template come from its GGUF file; its tokenizer is put together here, as in the model's own
tokenizer.json, because transformers' GGUF import leaves out the splitting of digits. The other vocabularies are small
and trained here on the test texts, in the make of Llama 3, Qwen2 and Llama 2. The chat templates under
testdata/templates are those that the models publish.
"""

import datetime
import json
import pathlib
import sys

from gguf import GGUFReader
from text_cases import (
    ADDED_TOKENS,
    EXPRESSION_VARIABLES,
    EXPRESSIONS,
    LONG_TEXTS,
    SPECIAL_TOKENS,
    TEXTS,
    WEATHER_TOOL,
    chats,
)
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.utils import chat_template_utils

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "src/text/testdata"
NOW = 1721995200  # 2024-07-26 12:00:00 UTC

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def smollm2(reader):
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = reader.fields["tokenizer.ggml.merges"].contents()
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    base = tokens[: len(tokens) - len(merges)]
    assert tokens == base + [merge.replace(" ", "") for merge in merges], (
        "every later token is a merge's result, in order"
    )
    control = [token for token, kind in zip(tokens, types) if kind == 3]
    assert control == base[: len(control)] and set(types) == {1, 3}
    (DATA / "smollm2_vocab.txt").write_text(
        "\n".join([str(len(control)), str(len(base)), *base, *merges]) + "\n", newline=""
    )
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)}, merges=[tuple(merge.split(" ")) for merge in merges]
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    return tokenizer


def add_tokens(tokenizer, name):
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS[name]])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ADDED_TOKENS[name]])


def byte_level(name, digits, nfc, ignore_merges):
    """A byte-level vocabulary with the pre-tokenizer of Llama 3 or Qwen2."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CONTRACTIONS + digits + REST), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS * 3,
        trainers.BpeTrainer(
            vocab_size=1200, min_frequency=3, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        ),
    )
    add_tokens(tokenizer, name)
    if name == "llama-bpe":
        bos = SPECIAL_TOKENS[name][0]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer


def metaspace():
    """A SentencePiece-like vocabulary with byte fallback, as Llama 2 and Mistral have."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.train_from_iterator(
        TEXTS[9:13] * 3,
        trainers.BpeTrainer(
            vocab_size=700,
            special_tokens=SPECIAL_TOKENS["metaspace"] + [f"<0x{byte:02X}>" for byte in range(256)],
            show_progress=False,
        ),
    )
    document = json.loads(trained.to_str())
    document["model"].update(byte_fallback=True, fuse_unk=True)
    document["added_tokens"] = []
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    add_tokens(tokenizer, "metaspace")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def fnv1a(ids):
    value = 0xCBF29CE484222325
    for token in ids:
        for byte in token.to_bytes(4, "little"):
            value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def encode(tokenizer, text, special=True, add=False):
    tokenizer.encode_special_tokens = not special
    ids = tokenizer.encode(text, add_special_tokens=add).ids
    tokenizer.encode_special_tokens = False
    return ids


def tokenizer_cases(tokenizer):
    cases = []
    for text in TEXTS:
        ids = encode(tokenizer, text)
        case = {"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)}
        optional = {"as_text": encode(tokenizer, text, special=False), "with_bos": encode(tokenizer, text, add=True)}
        case.update({key: value for key, value in optional.items() if value != ids})
        skipped = tokenizer.decode(ids, skip_special_tokens=True)
        if skipped != case["decoded"]:
            case["skipped"] = skipped
        cases.append(case)
    long = []
    for piece, times in LONG_TEXTS:
        ids = encode(tokenizer, piece * times)
        long.append({"piece": piece, "times": times, "count": len(ids), "fnv1a": fnv1a(ids)})
    return {"cases": cases, "long": long}


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.utcfromtimestamp(NOW)


def render(source, messages, tools=None, **variables):
    """transformers' apply_chat_template; None where the template or the engine refuses."""
    chat_template_utils.datetime = Clock
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            [messages], tools=tools, chat_template=source, **variables
        )
        return rendered[0]
    except Exception:  # any refusal is the expected result
        return None


TOKENS = {
    "smollm2": ("<|im_start|>", "<|im_end|>"),
    "llama-3.1": ("<|begin_of_text|>", "<|eot_id|>"),
    "qwen2.5": ("", "<|im_end|>"),
    "qwen3": ("", "<|im_end|>"),
    "mistral-nemo": ("<s>", "</s>"),
}


def chat_cases(smollm2_template):
    (DATA / "templates/smollm2.jinja").write_text(smollm2_template)
    models_ = []
    for name, (bos, eos) in TOKENS.items():
        source = (DATA / f"templates/{name}.jinja").read_text()
        cases = []
        for chat, messages in chats().items():
            for tools in (None, [WEATHER_TOOL]):
                for extra in ({}, {"enable_thinking": False}) if name == "qwen3" else ({},):
                    for prompt in (True, False):
                        text = render(
                            source, messages, tools, add_generation_prompt=prompt, bos_token=bos, eos_token=eos, **extra
                        )
                        cases.append(
                            {"chat": chat, "tools": tools is not None, "extra": extra, "prompt": prompt, "text": text}
                        )
        models_.append({"template": name, "bos": bos, "eos": eos, "cases": cases})
    expressions = [{"source": source, "text": render(source, [], **EXPRESSION_VARIABLES)} for source in EXPRESSIONS]
    return {
        "now": NOW,
        "chats": chats(),
        "tools": [WEATHER_TOOL],
        "models": models_,
        "variables": EXPRESSION_VARIABLES,
        "expressions": expressions,
    }


def write(name, value):
    (DATA / name).write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", newline="")


def main():
    reader = GGUFReader(sys.argv[1])
    tokenizers = {
        "llama-bpe": byte_level("llama-bpe", r"\p{N}{1,3}", nfc=False, ignore_merges=True),
        "qwen2": byte_level("qwen2", r"\p{N}", nfc=True, ignore_merges=False),
        "metaspace": metaspace(),
    }
    for name, tokenizer in tokenizers.items():
        (DATA / f"{name}.tokenizer.json").write_text(
            json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":")) + "\n", newline=""
        )
    tokenizers["smollm2"] = smollm2(reader)
    write("tokenizers.json", {name: tokenizer_cases(tokenizer) for name, tokenizer in tokenizers.items()})
    write("chat.json", chat_cases(reader.fields["tokenizer.chat_template"].contents()))


if __name__ == "__main__":
    main()
