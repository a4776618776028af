//! Tokenizers (Hugging Face `tokenizers`), chat templates (`minijinja`) and grammars (`llguidance`) behind the C header weft_text.h.
mod abi;
pub mod chat_template;
pub mod detokenizer;
pub mod fault;
pub mod gguf;
pub mod grammar;
mod python;
mod sandbox;
mod sentencepiece;
pub mod tokenizer;
