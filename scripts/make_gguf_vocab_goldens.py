#!/usr/bin/env python3
"""Makes src/text/testdata/gguf_vocabs.json: ids by Hugging Face's tokenizers for GGUF vocabularies of other makes.

Usage: make_gguf_vocab_goldens.py
Needs transformers and tokenizers (made with transformers 5.17). SentencePiece: the pieces of metaspace.tokenizer.json with
scores falling by id, whose merges transformers derives from the scores. tekken and seed-coder: the vocabulary of
llama-bpe.tokenizer.json behind the pre-tokenizers of Mistral Nemo and Seed-Coder.
"""

import json
import pathlib

from text_cases import TEXTS
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers.convert_slow_tokenizer import generate_merges

DATA = pathlib.Path(__file__).resolve().parent.parent / "src/text/testdata"
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
REGEXES = {
    "tekken": rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]*[{LOWER}]+|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]+[{LOWER}]*|\p{{N}}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "seed-coder": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+",
}


def cases(tokenizer):
    texts = TEXTS + ["HTTPServer_v2 camelCase ÉCOLE naïve a/b//\n 12345", "don't DON'T we'LL\r\n\r\n  x"]
    return [{"text": t, "ids": (ids := tokenizer.encode(t, add_special_tokens=False).ids),
             "decoded": tokenizer.decode(ids, skip_special_tokens=False)} for t in texts]


def sentencepiece():
    document = json.loads((DATA / "metaspace.tokenizer.json").read_text())
    vocab = document["model"]["vocab"]
    special = {token["content"]: 2 if token["content"] == "<unk>" else 3 for token in document["added_tokens"]}
    tokens = sorted(vocab, key=vocab.get)
    for token in document["added_tokens"]:
        if token["content"] not in vocab:
            tokens.append(token["content"])
    types = [special.get(t, 6 if t.startswith("<0x") else 1) for t in tokens]
    scores = [0.0 if kind != 1 else -float(i) for i, kind in enumerate(types)]
    document["model"]["merges"] = generate_merges(vocab, {t: s for t, s in zip(tokens, scores) if t in vocab})
    document["added_tokens"] = [t for t in document["added_tokens"] if special[t["content"]] == 3]
    prefixed = cases(Tokenizer.from_str(json.dumps(document)))
    # add_space_prefix = false: what LlamaConverter of transformers leaves out then.
    document["normalizer"]["normalizers"] = [n for n in document["normalizer"]["normalizers"] if n["type"] != "Prepend"]
    document["decoder"]["decoders"] = [d for d in document["decoder"]["decoders"] if d["type"] != "Strip"]
    return {"llama": {"tokens": tokens, "types": types, "scores": scores, "cases": prefixed},
            "llama without prefix": {"cases": cases(Tokenizer.from_str(json.dumps(document)))}}


def byte_level(name):
    document = json.loads((DATA / "llama-bpe.tokenizer.json").read_text())
    document["model"]["ignore_merges"] = name == "tekken"
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(REGEXES[name]), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return {"cases": cases(tokenizer)}


out = {**sentencepiece(), **{name: byte_level(name) for name in REGEXES}}
(DATA / "gguf_vocabs.json").write_text(json.dumps(out, ensure_ascii=False, separators=(",", ":")) + "\n", newline="")
