/* C interface of the Rust library: tokenizers, incremental detokenizers, chat templates, grammars.
 *
 * Every function returns a weft_text_code. On any code but WEFT_TEXT_OK, *error holds one line of UTF-8 and the other
 * outputs are untouched. Outputs are owned by the caller and given back with the matching *_free. Pointers are never
 * null unless said so; views may have size 0 (then data is ignored). No panic or exception leaves the library.
 * Tokenizers, templates and grammar compilers are immutable and may be used from many threads at once; a detokenizer or
 * grammar belongs to one thread at a time. Text is UTF-8; anything else is refused with the byte offset of the first
 * fault. */
#ifndef WEFT_TEXT_H
#define WEFT_TEXT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  WEFT_TEXT_OK = 0,
  WEFT_TEXT_INVALID_ARGUMENT = 1,   /* the caller's text, id or message is wrong */
  WEFT_TEXT_DATA_LOSS = 2,          /* tokenizer.json, vocabulary or template is corrupt */
  WEFT_TEXT_UNIMPLEMENTED = 3,      /* valid, but not supported; the error names it */
  WEFT_TEXT_RESOURCE_EXHAUSTED = 4, /* a template ran past its limit of steps or output */
} weft_text_code;

typedef struct {
  const char* data;
  size_t size;
} weft_text_view; /* borrowed bytes */
typedef struct {
  char* data;
  size_t size;
  size_t capacity;
} weft_text_buffer; /* owned bytes, not terminated */
typedef struct {
  int32_t* data;
  size_t size;
  size_t capacity;
} weft_text_ids; /* owned token ids */
void weft_text_buffer_free(weft_text_buffer buffer);
void weft_text_ids_free(weft_text_ids ids);

typedef struct weft_tokenizer weft_tokenizer;

/* Parses Hugging Face's tokenizer.json. Its truncation and padding settings are ignored, as transformers does. */
weft_text_code weft_tokenizer_from_json(weft_text_view json, weft_tokenizer** out, weft_text_buffer* error);

/* A vocabulary as GGUF files store it. */
typedef struct {
  weft_text_view model; /* tokenizer.ggml.model: "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE) */
  weft_text_view pre;   /* tokenizer.ggml.pre: of gpt2: "smollm", "llama-bpe", "qwen2", "tekken" or "seed-coder" */
  const weft_text_view* tokens; /* [num_tokens] */
  const int32_t* token_types;   /* [num_tokens] of llama.cpp's LLAMA_TOKEN_TYPE, or null: all normal */
  const float* scores;          /* [num_tokens] of llama: the higher, the earlier a piece is merged; or null */
  size_t num_tokens;
  const weft_text_view* merges; /* [num_merges], "left right", best first */
  size_t num_merges;
  int32_t bos_id, eos_id;   /* -1: none */
  int32_t add_bos, add_eos; /* 1, 0, or -1: the file does not say, so the pre-tokenizer's habit decides */
  bool add_space_prefix;    /* of llama: a text begins with a space that is not there */
} weft_gguf_vocab;
weft_text_code weft_tokenizer_from_gguf(const weft_gguf_vocab* vocab, weft_tokenizer** out, weft_text_buffer* error);

void weft_tokenizer_free(weft_tokenizer* tokenizer); /* null is fine; its detokenizers must be freed first */

/* add_special: add BOS and EOS as the vocabulary asks. parse_special: text such as "<|im_end|>" becomes its special
 * token; false keeps it plain text, which is what untrusted text needs. */
weft_text_code weft_tokenizer_encode(const weft_tokenizer* tokenizer, weft_text_view text, bool add_special,
                                     bool parse_special, weft_text_ids* out, weft_text_buffer* error);

/* Bytes that are not UTF-8 come out as U+FFFD. Ids that the vocabulary does not use decode to nothing, as in
 * Hugging Face (models pad their vocabulary); negative ids are errors. */
weft_text_code weft_tokenizer_decode(const weft_tokenizer* tokenizer, const int32_t* ids, size_t num_ids,
                                     bool skip_special, weft_text_buffer* out, weft_text_buffer* error);

/* The vocabulary's own spelling of a token, for instance "\xc4\xa0the" for " the". Errors: no such id. */
weft_text_code weft_tokenizer_token(const weft_tokenizer* tokenizer, int32_t id, weft_text_buffer* out,
                                    weft_text_buffer* error);
int32_t weft_tokenizer_id(const weft_tokenizer* tokenizer, weft_text_view token); /* -1: no such token */
int32_t weft_tokenizer_vocab_size(const weft_tokenizer* tokenizer);               /* largest id + 1 */

typedef struct weft_detokenizer weft_detokenizer;
weft_text_code weft_detokenizer_create(const weft_tokenizer* tokenizer, bool skip_special, weft_detokenizer** out,
                                       weft_text_buffer* error);
void weft_detokenizer_free(weft_detokenizer* detokenizer);
/* Appends nothing, or whole code points, to the text of the ids so far. */
weft_text_code weft_detokenizer_push(weft_detokenizer* detokenizer, int32_t id, weft_text_buffer* out,
                                     weft_text_buffer* error);
/* What was held back; the detokenizer then starts anew. */
weft_text_code weft_detokenizer_finish(weft_detokenizer* detokenizer, weft_text_buffer* out, weft_text_buffer* error);

typedef struct weft_chat_template weft_chat_template;
/* bos and eos become the template's bos_token and eos_token. Errors name the line. */
weft_text_code weft_chat_template_compile(weft_text_view source, weft_text_view bos, weft_text_view eos,
                                          weft_chat_template** out, weft_text_buffer* error);
void weft_chat_template_free(weft_chat_template* chat_template);

typedef struct {
  weft_text_view messages; /* JSON list of objects */
  weft_text_view tools;    /* JSON list; empty: none */
  weft_text_view extra;    /* JSON object of more variables, for instance enable_thinking; empty: none */
  bool add_generation_prompt;
  int64_t now; /* what strftime_now sees, seconds since 1970; negative: the clock */
} weft_chat_request;
weft_text_code weft_chat_template_render(const weft_chat_template* chat_template, const weft_chat_request* request,
                                         weft_text_buffer* out, weft_text_buffer* error);

typedef struct weft_grammar_compiler weft_grammar_compiler;
/* vocab_size: tokens of the model, of which the tokenizer may know fewer. Takes time: it walks the vocabulary. */
weft_text_code weft_grammar_compiler_create(const weft_tokenizer* tokenizer, int32_t vocab_size, const int32_t* eos_ids,
                                            size_t num_eos_ids, weft_grammar_compiler** out, weft_text_buffer* error);
void weft_grammar_compiler_free(weft_grammar_compiler* compiler); /* its grammars live on */

typedef enum {
  WEFT_GRAMMAR_JSON_OBJECT = 0,
  WEFT_GRAMMAR_JSON_SCHEMA = 1,
  WEFT_GRAMMAR_REGEX = 2,
  WEFT_GRAMMAR_LARK = 3,
} weft_grammar_kind;

typedef struct weft_grammar weft_grammar;
weft_text_code weft_grammar_compile(const weft_grammar_compiler* compiler, int32_t kind, weft_text_view text,
                                    weft_grammar** out, weft_text_buffer* error);
weft_text_code weft_grammar_clone(const weft_grammar* grammar, weft_grammar** out, weft_text_buffer* error);
void weft_grammar_free(weft_grammar* grammar);

/* The tokens that may come next: bit t % 32 of words[t / 32]; num_words = (vocab_size + 31) / 32. Out: the number set.
 */
weft_text_code weft_grammar_mask(weft_grammar* grammar, uint32_t* words, size_t num_words, size_t* out,
                                 weft_text_buffer* error);
/* The answer goes on with a token. Out: whether only an end token may follow. */
weft_text_code weft_grammar_push(weft_grammar* grammar, int32_t token, bool* out, weft_text_buffer* error);

#ifdef __cplusplus
}
#endif
#endif
