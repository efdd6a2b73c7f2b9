// Byte-level BPE as Hugging Face's tokenizer.json describes it: GPT-2, Llama-3, Qwen, OLMoE, DeepSeek, gpt-oss. Not here:
// what the file may say (tokenizer_bpe_spec.h) and the merging of one word (tokenizer_bpe_merge.h).
#pragma once

#include <memory>
#include <string>

#include "lib/io/tokenizer.h"

namespace moe {

// name: what name() says, and what errors begin with. Error 65 for a file that is not understood to the last option, 69
// without libpcre2, or without libutf8proc where the file asks for NFC.
//
// encode() takes any bytes: what is not UTF-8 is a word of its own (the reference implementation does not take it).
// decode(encode(text)) == normalized(text).
std::unique_ptr<Tokenizer> make_bpe_tokenizer(const std::string& name, const std::string& json);

}  // namespace moe
