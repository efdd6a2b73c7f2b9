// moe-data: makes, imports and shows token files, checks tokenizers.
#include "lib/run/data.h"
#include "tools/tool_main.h"

int main(int argc, char** argv) {
  moe::Options options("moe-data",
                       "Make token files from text, import those of other programs, show what is in one, check a tokenizer",
                       {
                           "moe-data encode text.txt -o tokens.h5",
                           "moe-data encode docs/one.txt docs/two.txt -o corpus.h5 --split 0.9",
                           "moe-data show tokens.h5",
                           "moe-data import nanogpt train.bin --dtype u16 --vocab-size 50257 -o imported.h5",
                           "moe-data tokenizer-check tokenizer.json text.txt",
                           "moe-data encode text.txt --tokenizer tokenizer.json -o words.h5",
                       });
  moe::DataOptions data;
  moe::CommonOptions common;
  moe::add_data_options(options, data);
  moe::add_common_options(options, common);
  return moe::tool_main(argc, argv, options, common,
                        [&](const moe::Invocation& invocation) { return moe::run_data(data, common, invocation); });
}
