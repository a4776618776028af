//! SentencePiece's BPE from pieces and scores, as Hugging Face turns such vocabularies into its own form.
use std::collections::HashMap;

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Replace, Sequence as NormalizerSequence};

use crate::fault::{Fault, Result};
use crate::gguf::Vocab;

const SPACE: &str = "\u{2581}";

/// Every way to put a piece together from two others, those of the best pieces first (convert_slow_tokenizer.py of
/// transformers, generate_merges).
pub fn merges(vocab: &Vocab, ids: &HashMap<String, u32>) -> Result<Vec<(String, String)>> {
    let Some(scores) = vocab.scores else {
        return Err(Fault::corrupt("tokenizer.ggml.scores: missing".to_string()));
    };
    if scores.len() != vocab.tokens.len() || scores.iter().any(|score| score.is_nan()) {
        return Err(Fault::corrupt("tokenizer.ggml.scores: expected a number for every token".to_string()));
    }
    let mut found = Vec::new();
    for (piece, score) in vocab.tokens.iter().zip(scores) {
        if piece.len() > MAX_PIECE {
            continue;
        }
        let mut local: Vec<_> = piece
            .char_indices()
            .skip(1)
            .map(|(at, _)| piece.split_at(at))
            .filter_map(|(left, right)| Some(((*ids.get(left)?, *ids.get(right)?), left, right)))
            .collect();
        local.sort_by_key(|(ids, ..)| *ids);
        found.extend(local.into_iter().map(|(_, left, right)| (*score, left, right)));
    }
    let length = |text: &str| text.chars().count();
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (length(b.1), length(b.2)).cmp(&(length(a.1), length(a.2)))));
    Ok(found.into_iter().map(|(_, left, right)| (left.to_string(), right.to_string())).collect())
}

/// Longer pieces are no text; a hostile file shall not cost quadratic time.
const MAX_PIECE: usize = 1024;

pub fn normalizer(add_space_prefix: bool) -> tokenizers::Result<NormalizerWrapper> {
    let mut steps = vec![Replace::new(" ", SPACE)?.into()];
    if add_space_prefix {
        steps.insert(0, Prepend::new(SPACE.to_string()).into());
    }
    Ok(NormalizerSequence::new(steps).into())
}

pub fn decoder(add_space_prefix: bool) -> tokenizers::Result<DecoderWrapper> {
    let mut steps = vec![Replace::new(SPACE, " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if add_space_prefix {
        steps.push(Strip::new(' ', 1, 0).into());
    }
    Ok(DecoderSequence::new(steps).into())
}
