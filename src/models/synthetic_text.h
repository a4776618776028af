// A vocabulary and a chat template for models with random weights.
#pragma once
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace weft {

// The 256 bytes, the two marks of ChatML, then words that no text contains, up to `vocab` tokens: texts are encoded
// byte by byte, every id decodes to something. vocab is at least 258.
Result<Tokenizer> make_synthetic_tokenizer(i64 vocab);
Result<ChatTemplate> make_synthetic_template();

}  // namespace weft
