//! The functions of weft_text.h. Each catches panics; a fault leaves by the error buffer.
//!
//! SAFETY, for the whole file: callers keep the header's promises (pointers valid and of the stated length, handles made
//! by the matching function and freed once). Nothing else is assumed of the bytes.
#![allow(non_camel_case_types)]
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

use crate::chat_template::{ChatTemplate, Request};
use crate::detokenizer::Detokenizer;
use crate::fault::{panic_text, Code, Fault, Result};
use crate::gguf;
use crate::grammar::{Compiler, Grammar, Kind};
use crate::tokenizer::Tokenizer;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct weft_text_view {
    data: *const u8,
    size: usize,
}

impl weft_text_view {
    unsafe fn bytes(&self) -> &[u8] {
        slice(self.data, self.size)
    }
    unsafe fn text(&self, what: &str) -> Result<&str> {
        std::str::from_utf8(self.bytes())
            .map_err(|e| Fault::invalid(format!("{what}: invalid UTF-8 at byte {}", e.valid_up_to())))
    }
}

unsafe fn slice<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(data, size)
    }
}

#[repr(C)]
pub struct weft_text_owned<T> {
    data: *mut T,
    size: usize,
    capacity: usize,
}
pub type weft_text_buffer = weft_text_owned<u8>;
pub type weft_text_ids = weft_text_owned<i32>;

impl<T> From<Vec<T>> for weft_text_owned<T> {
    fn from(vec: Vec<T>) -> Self {
        let mut vec = std::mem::ManuallyDrop::new(vec);
        weft_text_owned { data: vec.as_mut_ptr(), size: vec.len(), capacity: vec.capacity() }
    }
}

impl<T> weft_text_owned<T> {
    unsafe fn free(self) {
        if !self.data.is_null() {
            drop(Vec::from_raw_parts(self.data, self.size, self.capacity));
        }
    }
}

#[no_mangle]
pub unsafe extern "C" fn weft_text_buffer_free(buffer: weft_text_buffer) {
    buffer.free();
}

#[no_mangle]
pub unsafe extern "C" fn weft_text_ids_free(ids: weft_text_ids) {
    ids.free();
}

/// Runs one entry point: its value goes to `out`, a fault or a panic to `error`.
unsafe fn entry<T>(out: *mut T, error: *mut weft_text_buffer, body: impl FnOnce() -> Result<T>) -> Code {
    // A panic is reported as an error; the default hook would also print it.
    static QUIET: Once = Once::new();
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    let fault = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => {
            out.write(value);
            return Code::Ok;
        }
        Ok(Err(fault)) => fault,
        Err(panic) => Fault::corrupt(format!("text library panicked: {}", panic_text(&*panic))),
    };
    error.write(fault.message.into_bytes().into());
    fault.code
}

fn boxed<T>(value: T) -> *mut T {
    Box::into_raw(Box::new(value))
}

unsafe fn free<T>(handle: *mut T) {
    if !handle.is_null() {
        drop(Box::from_raw(handle));
    }
}

fn non_negative(what: &str, id: i32) -> Result<u32> {
    u32::try_from(id).map_err(|_| Fault::invalid(format!("{what}: token id {id} is negative")))
}

#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_from_json(
    json: weft_text_view,
    out: *mut *mut Tokenizer,
    error: *mut weft_text_buffer,
) -> Code {
    entry(out, error, || Tokenizer::from_json(json.bytes()).map(boxed))
}

unsafe fn texts<'a>(key: &str, views: *const weft_text_view, count: usize) -> Result<Vec<&'a str>> {
    let entry = |(i, view): (usize, &'a weft_text_view)| {
        std::str::from_utf8(view.bytes())
            .map_err(|e| Fault::corrupt(format!("{key}: entry {i}: invalid UTF-8 at byte {}", e.valid_up_to())))
    };
    slice(views, count).iter().enumerate().map(entry).collect()
}

#[repr(C)]
pub struct weft_gguf_vocab {
    model: weft_text_view,
    pre: weft_text_view,
    tokens: *const weft_text_view,
    token_types: *const i32,
    scores: *const f32,
    num_tokens: usize,
    merges: *const weft_text_view,
    num_merges: usize,
    bos_id: i32,
    eos_id: i32,
    add_bos: i32,
    add_eos: i32,
    add_space_prefix: bool,
}

#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_from_gguf(
    vocab: *const weft_gguf_vocab,
    out: *mut *mut Tokenizer,
    error: *mut weft_text_buffer,
) -> Code {
    entry(out, error, || {
        let vocab = &*vocab;
        let flag = |value: i32| (value >= 0).then_some(value != 0);
        let built = gguf::build(&gguf::Vocab {
            model: vocab.model.text("tokenizer.ggml.model")?,
            pre: vocab.pre.text("tokenizer.ggml.pre")?,
            tokens: texts("tokenizer.ggml.tokens", vocab.tokens, vocab.num_tokens)?,
            token_types: (!vocab.token_types.is_null()).then(|| slice(vocab.token_types, vocab.num_tokens)),
            scores: (!vocab.scores.is_null()).then(|| slice(vocab.scores, vocab.num_tokens)),
            merges: texts("tokenizer.ggml.merges", vocab.merges, vocab.num_merges)?,
            bos_id: u32::try_from(vocab.bos_id).ok(),
            eos_id: u32::try_from(vocab.eos_id).ok(),
            add_bos: flag(vocab.add_bos),
            add_eos: flag(vocab.add_eos),
            add_space_prefix: vocab.add_space_prefix,
        });
        built.map(boxed)
    })
}

#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_free(tokenizer: *mut Tokenizer) {
    free(tokenizer);
}

#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_encode(
    tokenizer: *const Tokenizer,
    text: weft_text_view,
    add_special: bool,
    parse_special: bool,
    out: *mut weft_text_ids,
    error: *mut weft_text_buffer,
) -> Code {
    entry(out, error, || {
        let ids = (*tokenizer).encode(text.text("text")?, add_special, parse_special)?;
        Ok(ids.into_iter().map(|id| id as i32).collect::<Vec<i32>>().into())
    })
}

#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_decode(
    tokenizer: *const Tokenizer,
    ids: *const i32,
    num_ids: usize,
    skip_special: bool,
    out: *mut weft_text_buffer,
    error: *mut weft_text_buffer,
) -> Code {
    entry(out, error, || {
        let ids = slice(ids, num_ids).iter().map(|id| non_negative("decode", *id)).collect::<Result<Vec<u32>>>()?;
        Ok((*tokenizer).decode(&ids, skip_special)?.into_bytes().into())
    })
}

#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_token(
    tokenizer: *const Tokenizer,
    id: i32,
    out: *mut weft_text_buffer,
    error: *mut weft_text_buffer,
) -> Code {
    entry(out, error, || match (*tokenizer).token(non_negative("token", id)?) {
        Some(token) => Ok(token.into_bytes().into()),
        None => Err(Fault::invalid(format!("token: the vocabulary has no token {id}"))),
    })
}

#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_id(tokenizer: *const Tokenizer, token: weft_text_view) -> i32 {
    let find = || token.text("token").ok().and_then(|text| (*tokenizer).id(text));
    catch_unwind(AssertUnwindSafe(find)).ok().flatten().map_or(-1, |id| id as i32)
}

#[no_mangle]
pub unsafe extern "C" fn weft_tokenizer_vocab_size(tokenizer: *const Tokenizer) -> i32 {
    (*tokenizer).vocab_size() as i32
}

#[no_mangle]
pub unsafe extern "C" fn weft_detokenizer_create(
    tokenizer: *const Tokenizer,
    skip_special: bool,
    out: *mut *mut Detokenizer<'static>,
    error: *mut weft_text_buffer,
) -> Code {
    entry(out, error, || Ok(boxed(Detokenizer::new(&*tokenizer, skip_special))))
}

#[no_mangle]
pub unsafe extern "C" fn weft_detokenizer_free(detokenizer: *mut Detokenizer<'static>) {
    free(detokenizer);
}

#[no_mangle]
pub unsafe extern "C" fn weft_detokenizer_push(
    detokenizer: *mut Detokenizer<'static>,
    id: i32,
    out: *mut weft_text_buffer,
    error: *mut weft_text_buffer,
) -> Code {
    entry(out, error, || Ok((*detokenizer).push(non_negative("detokenizer", id)?)?.into_bytes().into()))
}

#[no_mangle]
pub unsafe extern "C" fn weft_detokenizer_finish(
    detokenizer: *mut Detokenizer<'static>,
    out: *mut weft_text_buffer,
    error: *mut weft_text_buffer,
) -> Code {
    entry(out, error, || Ok((*detokenizer).finish()?.into_bytes().into()))
}

#[no_mangle]
pub unsafe extern "C" fn weft_chat_template_compile(
    source: weft_text_view,
    bos: weft_text_view,
    eos: weft_text_view,
    out: *mut *mut ChatTemplate,
    error: *mut weft_text_buffer,
) -> Code {
    entry(out, error, || {
        ChatTemplate::compile(source.text("chat template")?, bos.text("bos token")?, eos.text("eos token")?).map(boxed)
    })
}

#[no_mangle]
pub unsafe extern "C" fn weft_chat_template_free(chat_template: *mut ChatTemplate) {
    free(chat_template);
}

#[repr(C)]
pub struct weft_chat_request {
    messages: weft_text_view,
    tools: weft_text_view,
    extra: weft_text_view,
    add_generation_prompt: bool,
    now: i64,
}

#[no_mangle]
pub unsafe extern "C" fn weft_chat_template_render(
    chat_template: *const ChatTemplate,
    request: *const weft_chat_request,
    out: *mut weft_text_buffer,
    error: *mut weft_text_buffer,
) -> Code {
    entry(out, error, || {
        let request = &*request;
        let text = (*chat_template).render(&Request {
            messages: request.messages.text("messages")?,
            tools: request.tools.text("tools")?,
            extra: request.extra.text("extra")?,
            add_generation_prompt: request.add_generation_prompt,
            now: (request.now >= 0).then_some(request.now),
        })?;
        Ok(text.into_bytes().into())
    })
}

#[no_mangle]
pub unsafe extern "C" fn weft_grammar_compiler_create(
    tokenizer: *const Tokenizer,
    vocab_size: i32,
    eos_ids: *const i32,
    num_eos_ids: usize,
    out: *mut *mut Compiler,
    error: *mut weft_text_buffer,
) -> Code {
    entry(out, error, || {
        let ids = slice(eos_ids, num_eos_ids).iter().map(|id| non_negative("end token", *id));
        let ids = ids.collect::<Result<Vec<u32>>>()?;
        Compiler::new(&*tokenizer, non_negative("vocab_size", vocab_size)?, &ids).map(boxed)
    })
}

#[no_mangle]
pub unsafe extern "C" fn weft_grammar_compiler_free(compiler: *mut Compiler) {
    free(compiler);
}

#[no_mangle]
pub unsafe extern "C" fn weft_grammar_compile(
    compiler: *const Compiler,
    kind: i32,
    text: weft_text_view,
    out: *mut *mut Grammar,
    error: *mut weft_text_buffer,
) -> Code {
    entry(out, error, || {
        let kind = match kind {
            0 => Kind::JsonObject,
            1 => Kind::JsonSchema,
            2 => Kind::Regex,
            3 => Kind::Lark,
            _ => return Err(Fault::invalid(format!("grammar: unknown kind {kind}"))),
        };
        (*compiler).compile(kind, text.text("grammar")?).map(boxed)
    })
}

#[no_mangle]
pub unsafe extern "C" fn weft_grammar_clone(
    grammar: *const Grammar,
    out: *mut *mut Grammar,
    error: *mut weft_text_buffer,
) -> Code {
    entry(out, error, || Ok(boxed((*grammar).clone())))
}

#[no_mangle]
pub unsafe extern "C" fn weft_grammar_free(grammar: *mut Grammar) {
    free(grammar);
}

#[no_mangle]
pub unsafe extern "C" fn weft_grammar_mask(
    grammar: *mut Grammar,
    words: *mut u32,
    num_words: usize,
    out: *mut usize,
    error: *mut weft_text_buffer,
) -> Code {
    entry(out, error, || {
        let words = if num_words == 0 { &mut [] } else { std::slice::from_raw_parts_mut(words, num_words) };
        (*grammar).mask(words)?;
        Ok(words.iter().map(|word| word.count_ones() as usize).sum())
    })
}

#[no_mangle]
pub unsafe extern "C" fn weft_grammar_push(
    grammar: *mut Grammar,
    token: i32,
    out: *mut bool,
    error: *mut weft_text_buffer,
) -> Code {
    entry(out, error, || (*grammar).push(non_negative("grammar", token)?))
}
