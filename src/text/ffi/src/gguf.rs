//! Tokenizers from the vocabulary arrays of GGUF files.
//!
//! The pre-tokenizers are those of the models' own tokenizer.json files: SmolLM2, Llama 3, Qwen2, Mistral Nemo and Seed.
//! Model `llama` is SentencePiece's BPE as Llama 2 and Mistral have it.
use std::collections::HashMap;

use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::{SpecialToken, TemplateProcessing};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer as HfTokenizer};

use crate::fault::{Code, Fault, Result};
use crate::sentencepiece;
use crate::tokenizer::Tokenizer;

/// What a file says about its vocabulary. `None` for add_bos and add_eos means that it does not say.
#[derive(Default)]
pub struct Vocab<'a> {
    pub model: &'a str,
    pub pre: &'a str,
    pub tokens: Vec<&'a str>,
    pub token_types: Option<&'a [i32]>,
    pub scores: Option<&'a [f32]>,
    pub merges: Vec<&'a str>,
    pub bos_id: Option<u32>,
    pub eos_id: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    /// Of model `llama`: a text begins with a space that is not there.
    pub add_space_prefix: bool,
}

// Of llama.cpp's token types; the others (1 normal, 6 byte) are plain entries of a byte-level vocabulary.
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Everything that distinguishes one family of byte-level BPE from another.
struct Family {
    split: SplitRule,
    nfc: bool,
    /// A piece that is itself a token is taken whole, whatever the merges say.
    ignore_merges: bool,
    add_bos: bool,
}

enum SplitRule {
    /// Every digit alone, then GPT-2's own regex.
    DigitsThenGpt2,
    Regex(&'static str),
    /// SentencePiece does not split.
    None,
}

fn family(pre: &str) -> Result<Family> {
    const LLAMA3: &str = concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    );
    const QWEN2: &str = concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    );
    const TEKKEN: &str = concat!(
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    );
    const SEED_CODER: &str = concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}",
        r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
    );
    Ok(match pre {
        "tekken" => Family { split: SplitRule::Regex(TEKKEN), nfc: false, ignore_merges: true, add_bos: true },
        "seed-coder" => Family { split: SplitRule::Regex(SEED_CODER), nfc: false, ignore_merges: false, add_bos: false },
        "smollm" => Family { split: SplitRule::DigitsThenGpt2, nfc: false, ignore_merges: false, add_bos: false },
        "llama-bpe" => Family { split: SplitRule::Regex(LLAMA3), nfc: false, ignore_merges: true, add_bos: true },
        "qwen2" => Family { split: SplitRule::Regex(QWEN2), nfc: true, ignore_merges: false, add_bos: false },
        other => {
            return Err(Fault::new(
                Code::Unimplemented,
                format!("tokenizer.ggml.pre: pre-tokenizer '{other}' is not supported (smollm, llama-bpe, qwen2, tekken, seed-coder are)"),
            ))
        }
    })
}

fn pre_tokenizer(rule: &SplitRule) -> Result<PreTokenizerWrapper> {
    let byte_level = |use_regex| ByteLevel::new(false, true, use_regex).into();
    let steps: Vec<PreTokenizerWrapper> = match rule {
        SplitRule::None => vec![],
        SplitRule::DigitsThenGpt2 => vec![Digits::new(true).into(), byte_level(true)],
        SplitRule::Regex(regex) => {
            let pattern = SplitPattern::Regex(regex.to_string());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(|e| Fault::corrupt(e.to_string()))?;
            vec![split.into(), byte_level(false)]
        }
    };
    Ok(Sequence::new(steps).into())
}

/// Builds the tokenizer that the model's own tokenizer.json describes. Errors name the key, and the index in arrays.
pub fn build(vocab: &Vocab) -> Result<Tokenizer> {
    let sentencepiece = vocab.model == "llama";
    let family = match vocab.model {
        "gpt2" => family(vocab.pre)?,
        "llama" => Family { split: SplitRule::None, nfc: false, ignore_merges: false, add_bos: true },
        other => {
            return Err(Fault::new(
                Code::Unimplemented,
                format!("tokenizer.ggml.model: '{other}' is not supported (gpt2, llama are)"),
            ))
        }
    };
    if let Some(types) = vocab.token_types {
        if types.len() != vocab.tokens.len() {
            return Err(Fault::corrupt(format!(
                "tokenizer.ggml.token_type: {} entries for {} tokens",
                types.len(),
                vocab.tokens.len()
            )));
        }
    }
    let token_type = |id: usize| vocab.token_types.map_or(1, |types| types[id]);

    let mut ids = HashMap::with_capacity(vocab.tokens.len());
    let mut added = Vec::new();
    for (id, token) in vocab.tokens.iter().enumerate() {
        if token_type(id) == UNUSED {
            continue;
        }
        if let Some(first) = ids.insert(token.to_string(), id as u32) {
            return Err(Fault::corrupt(format!(
                "tokenizer.ggml.tokens: '{token}' is both token {first} and token {id}"
            )));
        }
        match token_type(id) {
            CONTROL => added.push(AddedToken::from(*token, true).normalized(false)),
            USER_DEFINED => added.push(AddedToken::from(*token, false).normalized(false)),
            _ => {}
        }
    }
    let merges = if sentencepiece { sentencepiece::merges(vocab, &ids)? } else { merges(vocab)? };
    let mut builder = BPE::builder()
        .vocab_and_merges(ids.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .ignore_merges(family.ignore_merges);
    if sentencepiece {
        builder = builder.byte_fallback(true).fuse_unk(true);
        if let Some(id) = (0..vocab.tokens.len()).find(|id| token_type(*id) == UNKNOWN) {
            builder = builder.unk_token(vocab.tokens[id].to_string());
        }
    }
    let bpe = builder
        .build()
        .map_err(|e| Fault::corrupt(format!("tokenizer.ggml.merges: {e}")))?;

    let fault = |e: tokenizers::Error| Fault::corrupt(format!("tokenizer.ggml: {e}"));
    let mut tokenizer = HfTokenizer::new(bpe);
    if family.nfc {
        tokenizer.with_normalizer(Some(NFC)).map_err(fault)?;
    }
    if sentencepiece {
        tokenizer.with_normalizer(Some(sentencepiece::normalizer(vocab.add_space_prefix).map_err(fault)?)).map_err(fault)?;
        tokenizer.with_decoder(Some(sentencepiece::decoder(vocab.add_space_prefix).map_err(fault)?));
    } else {
        tokenizer.with_pre_tokenizer(Some(pre_tokenizer(&family.split)?));
        tokenizer.with_decoder(Some(ByteLevel::new(true, true, true)));
    }
    tokenizer.add_tokens(added).map_err(fault)?;
    if let Some(processor) = post_processor(vocab, &family)? {
        tokenizer.with_post_processor(Some(processor));
    }
    let count = u32::try_from(vocab.tokens.len()).map_err(|_| Fault::corrupt("tokenizer.ggml.tokens: too many"))?;
    Ok(Tokenizer::new(tokenizer)?.with_vocab_size(count))
}

fn merges(vocab: &Vocab) -> Result<Vec<(String, String)>> {
    let pair = |(index, merge): (usize, &&str)| match merge.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => {
            Ok((left.to_string(), right.to_string()))
        }
        _ => Err(Fault::corrupt(format!("tokenizer.ggml.merges: entry {index}, '{merge}', is not a pair of tokens"))),
    };
    vocab.merges.iter().enumerate().map(pair).collect()
}

/// Adds BOS and EOS where the file, or else the family's habit, says so.
fn post_processor(vocab: &Vocab, family: &Family) -> Result<Option<TemplateProcessing>> {
    let named = |name: &str, id: Option<u32>, wanted: bool| -> Result<Option<SpecialToken>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let token = match id {
            Some(id) => Some(*vocab.tokens.get(id as usize).ok_or_else(|| {
                Fault::corrupt(format!("{key}: {id} is not below {}, the number of tokens", vocab.tokens.len()))
            })?),
            None => None,
        };
        if !wanted {
            return Ok(None);
        }
        let (Some(id), Some(token)) = (id, token) else {
            return Err(Fault::corrupt(format!("tokenizer.ggml.add_{name}_token is set, but {key} is missing")));
        };
        SpecialToken::new(name.to_string(), vec![id], vec![token.to_string()])
            .map(Some)
            .map_err(|e| Fault::corrupt(format!("{key}: {e}")))
    };
    // A habit needs a token to add; a file's own word without one is an error.
    let add_bos = vocab.add_bos.unwrap_or(family.add_bos && vocab.bos_id.is_some());
    let bos = named("bos", vocab.bos_id, add_bos)?;
    let eos = named("eos", vocab.eos_id, vocab.add_eos.unwrap_or(false))?;
    if bos.is_none() && eos.is_none() {
        return Ok(None);
    }
    let sequence = |body: &str| {
        let (before, after) = (bos.as_ref().map(|_| "bos:0"), eos.as_ref().map(|_| "eos:0"));
        [before, Some(body), after].into_iter().flatten().map(String::from).collect::<Vec<_>>()
    };
    let fault = |e: String| Fault::corrupt(format!("tokenizer.ggml: {e}"));
    TemplateProcessing::builder()
        .try_single(sequence("$A:0"))
        .map_err(fault)?
        .special_tokens(bos.iter().chain(eos.iter()).cloned().collect::<Vec<_>>())
        .build()
        .map(Some)
        .map_err(|e| fault(e.to_string()))
}
