// Reads the token files of other programs: Megatron-LM (.bin and .idx), llm.c (.bin), nanoGPT (.bin). A plan is made from
// headers and sizes alone, and everything that can be wrong with those is found before a token is read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/io/token_writer.h"

namespace moe {

enum class IdType : std::uint8_t { kU8, kI8, kI16, kI32, kI64, kU16, kU32 };

struct ImportPlan {
  struct Run {  // neighbouring ids in the file
    std::int64_t byte_offset, count;
    bool begins_document;
  };
  std::string path;  // of the file with the ids
  IdType type = IdType::kU16;
  std::vector<Run> runs;
  std::int64_t num_tokens = 0;
};

// All throw Error 66 (not there) or 65 (magic, version, sizes that do not match, odd tail, empty).
ImportPlan plan_megatron(const std::string& prefix);  // prefix.idx and prefix.bin
ImportPlan plan_llmc(const std::string& path);
ImportPlan plan_nanogpt(const std::string& path, IdType type);  // no header: the type must be known

// Copies all ids in bounded memory. Error 65 naming the first id beyond the writer's vocabulary.
void import_tokens(const ImportPlan& plan, TokenWriter& writer);

}  // namespace moe
