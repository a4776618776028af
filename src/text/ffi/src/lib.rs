//! Tokenizers (Hugging Face `tokenizers`) and chat templates (`minijinja`) behind the C header weft_text.h.
mod abi;
pub mod chat_template;
pub mod detokenizer;
pub mod fault;
pub mod gguf;
mod python;
mod sandbox;
pub mod tokenizer;
