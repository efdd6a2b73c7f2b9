// Products of so few rows are those of decoding. Up to here a row of gemm.forward and of grouped_gemm.forward has the same
// bits however many rows come with it and whatever they are, in every dtype, so that the text of generation does not depend
// on the texts beside it, nor on the drafts behind it. Not here: how (gemm.cpp).
#pragma once

namespace moe {

constexpr int kFewRows = 24;

}  // namespace moe
