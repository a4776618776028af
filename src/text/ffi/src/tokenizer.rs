//! A Hugging Face tokenizer with the choice, per call, whether special tokens in the text count as such.
use tokenizers::{
    AddedVocabulary, DecoderWrapper, Model, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer as HfTokenizer,
};

use crate::detokenizer::byte_level_bytes;
use crate::fault::{Fault, Result};

/// The regex engine gives up silently on a longer run of whitespace (`\s+(?!\S)` needs one stack entry for each
/// character and has a million), after which the rest of the text would not be split at all.
const MAX_WHITESPACE_RUN: usize = 500_000;

pub struct Tokenizer {
    inner: HfTokenizer,
    /// The same added tokens, but the special ones are not matched in text.
    plain: AddedVocabulary,
    vocab_size: u32,
}

impl Tokenizer {
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let inner = HfTokenizer::from_bytes(bytes).map_err(|e| Fault::corrupt(format!("tokenizer.json: {e}")))?;
        Self::new(inner)
    }

    pub fn new(mut inner: HfTokenizer) -> Result<Self> {
        inner.with_truncation(None).map_err(|e| Fault::corrupt(e.to_string()))?;
        inner.with_padding(None);
        let mut plain = inner.get_added_vocabulary().clone();
        plain.set_encode_special_tokens(true);
        let vocab_size = inner.get_vocab(true).values().max().map_or(0, |largest| largest + 1);
        if i32::try_from(vocab_size).is_err() {
            return Err(Fault::corrupt(format!("vocabulary: token id {} does not fit 31 bits", vocab_size - 1)));
        }
        Ok(Tokenizer { inner, plain, vocab_size })
    }

    /// Counts ids that the file lists but that no text produces.
    pub fn with_vocab_size(mut self, vocab_size: u32) -> Self {
        self.vocab_size = self.vocab_size.max(vocab_size);
        self
    }

    /// The steps of `tokenizers::Tokenizer::encode_fast`, with the added vocabulary chosen by the caller.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        check_whitespace(text)?;
        let added = if parse_special { self.inner.get_added_vocabulary() } else { &self.plain };
        let fault = |e: tokenizers::Error| Fault::invalid(format!("encode: {e}"));
        let mut pieces: PreTokenizedString = added.extract_and_normalize(self.inner.get_normalizer(), text);
        if let Some(splitter) = self.inner.get_pre_tokenizer() {
            splitter.pre_tokenize(&mut pieces).map_err(fault)?;
        }
        self.inner.get_model().tokenize_in_pretokenized(&mut pieces, None).map_err(fault)?;
        let encoding = pieces.into_encoding(None, 0, OffsetType::None).map_err(fault)?;
        let encoding = self.inner.post_process(encoding, None, add_special).map_err(fault)?;
        Ok(encoding.get_ids().to_vec())
    }

    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(|e| Fault::invalid(format!("decode: {e}")))
    }

    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    pub fn is_special(&self, token: &str) -> bool {
        self.inner.get_added_vocabulary().is_special_token(token)
    }

    /// The bytes that a token of the vocabulary adds to a text.
    pub fn token_bytes(&self, token: &str) -> Vec<u8> {
        if self.is_byte_level() {
            return byte_level_bytes(token);
        }
        // Metaspace vocabularies: byte fallback "<0x0A>", else text with U+2581 for a space.
        let byte = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
        match byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => vec![byte],
            None => token.replace('\u{2581}', " ").into_bytes(),
        }
    }

    /// Whether decoding is byte-level: the text is the lossy UTF-8 reading of the tokens' bytes, one after another.
    pub fn is_byte_level(&self) -> bool {
        matches!(self.inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)))
    }
}

fn check_whitespace(text: &str) -> Result<()> {
    if text.len() <= MAX_WHITESPACE_RUN {
        return Ok(());
    }
    let mut run = 0;
    for (offset, c) in text.char_indices() {
        run = if c.is_whitespace() { run + 1 } else { 0 };
        if run > MAX_WHITESPACE_RUN {
            return Err(Fault::invalid(format!(
                "encode: more than {MAX_WHITESPACE_RUN} whitespace characters in a row at byte {offset}"
            )));
        }
    }
    Ok(())
}
