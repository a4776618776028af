//! Grammars that an answer must follow, as masks of the tokens that may come next (`llguidance`).
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{json, Value};

use crate::fault::{Code, Fault, Result};
use crate::tokenizer::Tokenizer;

#[derive(Clone, Copy)]
pub enum Kind {
    JsonObject,
    JsonSchema,
    Regex,
    Lark,
}

/// A vocabulary prepared for grammars; immutable.
pub struct Compiler {
    factory: ParserFactory,
}

impl Compiler {
    /// `vocab_size`: tokens of the model, of which the tokenizer may know fewer; those it does not know never come.
    pub fn new(tokenizer: &Tokenizer, vocab_size: u32, eos: &[u32]) -> Result<Self> {
        let Some(&first_eos) = eos.first() else {
            return Err(Fault::invalid("grammar: the model has no end token, so no answer could end"));
        };
        if let Some(id) = eos.iter().find(|id| **id >= vocab_size) {
            return Err(Fault::invalid(format!("grammar: end token {id} is outside the vocabulary of {vocab_size}")));
        }
        let words: Vec<Vec<u8>> = (0..vocab_size).map(|id| word(tokenizer, id)).collect();
        let trie = TokTrie::from(&TokRxInfo::new(vocab_size, first_eos), &words).with_eos_tokens(eos);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory =
            ParserFactory::new(&env, InferenceCapabilities::default(), &SlicedBiasComputer::general_slices())
                .map_err(|e| Fault::corrupt(format!("grammar: {}", one_line(&e.to_string()))))?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Compiler { factory })
    }

    pub fn compile(&self, kind: Kind, text: &str) -> Result<Grammar> {
        let grammar = match kind {
            Kind::JsonObject => TopLevelGrammar::from_json_schema(without_free_whitespace(json!({"type": "object"}))?),
            Kind::JsonSchema => {
                let schema = serde_json::from_str(text).map_err(|e| Fault::invalid(format!("json_schema: {e}")))?;
                TopLevelGrammar::from_json_schema(without_free_whitespace(schema)?)
            }
            Kind::Regex => TopLevelGrammar::from_regex(text),
            Kind::Lark => TopLevelGrammar::from_lark(text.to_string()),
        };
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        // Some faults of a grammar show only at its first use.
        let _ = matcher.compute_mask_or_eos();
        match matcher.get_error() {
            Some(text) => Err(Fault::invalid(format!("grammar: {}", one_line(&text)))),
            None => Ok(Grammar { matcher, vocab_size: self.factory.tok_env().tok_trie().vocab_size() }),
        }
    }
}

/// A grammar and how far one answer has come in it.
#[derive(Clone)]
pub struct Grammar {
    matcher: Matcher,
    vocab_size: usize,
}

impl Grammar {
    /// Bit t % 32 of word t / 32: token t may come next. End tokens may where the grammar can end.
    pub fn mask(&mut self, words: &mut [u32]) -> Result<()> {
        let expected = self.vocab_size.div_ceil(32);
        if words.len() != expected {
            return Err(Fault::invalid(format!("grammar: mask of {} words, expected {expected}", words.len())));
        }
        let mask = self.matcher.compute_mask_or_eos().map_err(|e| exhausted(&e.to_string()))?;
        words.fill(0);
        for (word, bits) in words.iter_mut().zip(mask.as_slice()) {
            *word = *bits;
        }
        if self.vocab_size % 32 != 0 {
            words[expected - 1] &= (1 << (self.vocab_size % 32)) - 1;
        }
        Ok(())
    }

    /// The answer goes on with `token`. True when only an end token may follow.
    pub fn push(&mut self, token: u32) -> Result<bool> {
        self.matcher.consume_token(token).map_err(|e| exhausted(&e.to_string()))?;
        Ok(self.matcher.is_stopped())
    }
}

fn exhausted(text: &str) -> Fault {
    Fault::new(Code::ResourceExhausted, format!("grammar: {}", one_line(text)))
}

fn one_line(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.chars().take(500).collect()
}

/// JSON as Python's `json.dumps` writes it: models could spend a whole answer on spaces otherwise.
fn without_free_whitespace(schema: Value) -> Result<Value> {
    let mut schema = match schema {
        Value::Object(fields) => fields,
        Value::Bool(true) => Default::default(),
        other => {
            let text: String = other.to_string().chars().take(80).collect();
            return Err(Fault::invalid(format!("json_schema: expected an object or true, found {text}")));
        }
    };
    schema.insert(
        "x-guidance".to_string(),
        json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "}),
    );
    Ok(Value::Object(schema))
}

/// A token's bytes as the trie wants them: special ones behind a marker, so that no text matches them.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    match tokenizer.token(id) {
        None => Vec::new(),
        Some(token) if tokenizer.is_special(&token) => {
            [&[TokTrie::SPECIAL_TOKEN_MARKER], token.as_bytes()].concat()
        }
        Some(token) => tokenizer.token_bytes(&token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compilers_may_be_shared_and_grammars_moved_between_threads() {
        fn shared<T: Send + Sync>() {}
        fn moved<T: Send>() {}
        shared::<Compiler>();
        moved::<Grammar>();
    }
}
