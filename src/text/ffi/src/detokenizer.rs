//! Text from tokens as they come: whole code points only, and in the end the same text as decoding all ids at once.
use crate::fault::Result;
use crate::tokenizer::Tokenizer;

pub struct Detokenizer<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    state: State,
}

enum State {
    /// Byte-level vocabularies: bytes that may still become a code point (at most three).
    Bytes(Vec<u8>),
    /// Any other decoder, whose text for a token depends on its neighbours.
    Window(Window),
}

/// The ids whose text matters for the next piece: first those of the piece emitted last, `read` many, which give the
/// decoder its left context (a leading space, for instance), then those not emitted yet.
#[derive(Default)]
struct Window {
    ids: Vec<u32>,
    read: usize,
}

/// No code point spans more tokens: after so many, an unfinished character is a broken one.
const MAX_HELD_IDS: usize = 16;

impl<'a> Detokenizer<'a> {
    pub fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        let state = if tokenizer.is_byte_level() { State::Bytes(Vec::new()) } else { State::Window(Window::default()) };
        Detokenizer { tokenizer, skip_special, state }
    }

    pub fn push(&mut self, id: u32) -> Result<String> {
        match &mut self.state {
            State::Bytes(held) => {
                if let Some(token) = self.tokenizer.token(id) {
                    if !(self.skip_special && self.tokenizer.is_special(&token)) {
                        held.extend(byte_level_bytes(&token));
                    }
                }
                Ok(take_code_points(held))
            }
            State::Window(window) => window.push(self.tokenizer, self.skip_special, id),
        }
    }

    pub fn finish(&mut self) -> Result<String> {
        match &mut self.state {
            State::Bytes(held) => Ok(String::from_utf8_lossy(&std::mem::take(held)).into_owned()),
            State::Window(window) => {
                let text = window.unread(self.tokenizer, self.skip_special)?;
                *window = Window::default();
                Ok(text)
            }
        }
    }
}

impl Window {
    fn push(&mut self, tokenizer: &Tokenizer, skip_special: bool, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.unread(tokenizer, skip_special)?;
        let unfinished = text.ends_with('\u{fffd}') && self.ids.len() - self.read < MAX_HELD_IDS;
        if text.is_empty() || unfinished {
            // A special token that is skipped must not end up as the whole left context.
            return Ok(String::new());
        }
        self.ids.drain(..self.read);
        self.read = self.ids.len();
        Ok(text)
    }

    /// The text of the ids after `read`, in the context of those before.
    fn unread(&self, tokenizer: &Tokenizer, skip_special: bool) -> Result<String> {
        let before = tokenizer.decode(&self.ids[..self.read], skip_special)?;
        let all = tokenizer.decode(&self.ids, skip_special)?;
        match all.strip_prefix(&before) {
            Some(text) => Ok(text.to_string()),
            // Byte fallback: bytes that broke off turn the character before them, already emitted, into U+FFFD as
            // well. What was emitted stands; the rest is read on its own.
            None => tokenizer.decode(&self.ids[self.read..], skip_special),
        }
    }
}

/// Removes from `held` and returns everything that later bytes cannot change. Broken sequences become U+FFFD one by
/// one, as `String::from_utf8_lossy` does (Unicode, section 3.9, substitution of maximal subparts).
fn take_code_points(held: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut rest = &held[..];
    loop {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                rest = &[];
                break;
            }
            Err(error) => {
                let (valid, broken) = rest.split_at(error.valid_up_to());
                text.push_str(std::str::from_utf8(valid).expect("checked above"));
                rest = broken;
                match error.error_len() {
                    Some(length) => {
                        text.push('\u{fffd}');
                        rest = &rest[length..];
                    }
                    None => break,
                }
            }
        }
    }
    *held = rest.to_vec();
    text
}

/// The bytes that a token of a byte-level vocabulary stands for; a token with any character outside GPT-2's byte
/// alphabet stands for itself.
pub fn byte_level_bytes(token: &str) -> Vec<u8> {
    token.chars().map(byte_of).collect::<Option<Vec<u8>>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

/// GPT-2's alphabet: printable Latin-1 stands for itself, the 68 other bytes, in order, for U+0100 and onwards.
fn byte_of(c: char) -> Option<u8> {
    let printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(c) {
        code @ 0..=0xff => Some(code as u8).filter(|b| printable(*b)),
        code => (0..=0xff).filter(|b| !printable(*b)).nth((code - 0x100) as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All sequences of four bytes out of the ones where UTF-8's rules change, cut at every place.
    #[test]
    fn pieces_join_to_the_lossy_reading() {
        let edges = [
            0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc2, 0xdf, 0xe0, 0xe1, 0xed, 0xef, 0xf0, 0xf1, 0xf4,
            0xf5,
        ];
        for index in 0..edges.len().pow(4) {
            let bytes: Vec<u8> = (0..4).map(|i| edges[index / edges.len().pow(i) % edges.len()]).collect();
            for cut in 0..=4 {
                let mut held = bytes[..cut].to_vec();
                let mut text = take_code_points(&mut held);
                held.extend(&bytes[cut..]);
                text += &take_code_points(&mut held);
                text += &String::from_utf8_lossy(&held);
                assert_eq!(text, String::from_utf8_lossy(&bytes), "{bytes:x?} cut at {cut}");
            }
        }
    }

    #[test]
    fn the_byte_alphabet_is_the_one_of_the_library() {
        use tokenizers::pre_tokenizers::byte_level::ByteLevel;
        use tokenizers::Decoder;
        for c in (0..0x300).filter_map(char::from_u32) {
            let bytes = byte_level_bytes(&c.to_string());
            let theirs = ByteLevel::default().decode(vec![c.to_string()]).unwrap();
            assert_eq!(String::from_utf8_lossy(&bytes), theirs, "{c:?}");
        }
    }
}
