// Sizes as people write them: 4096, 512M, 2G (powers of 1024).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moe {

// Bytes of "512M", "1.5G", "4096": a number above 0 and one of nothing, K, M, G, T, with an optional B or iB behind the
// letter. Error(kUsage) naming `what` otherwise.
std::int64_t parse_byte_size(const std::string& text, const std::string& what);
// "8G" for each of `count` things, or "8G,4G,..." one for each. Error(kUsage).
std::vector<std::int64_t> parse_byte_sizes(const std::string& text, const std::string& what, std::size_t count);
// "17 B", "4.00 KiB", "1.50 GiB"
std::string bytes_text(double bytes);

}  // namespace moe
