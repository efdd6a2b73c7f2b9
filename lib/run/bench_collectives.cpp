// `moe-bench collectives`: what a training run does over all ranks, in the manner of nccl-tests: algbw = size / time, busbw
// = algbw x the part of the size that crosses the links of a rank in the best algorithm. What training on GPUs sends from
// their memory is sent from there; what it counts on the host (barrier, all_reduce_one) goes between hosts. Not here:
// exchange of routed rows (bench_dispatch.cpp).
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "lib/base/provenance.h"
#include "lib/base/stopwatch.h"
#include "lib/comm/collectives.h"
#include "lib/parallel/row_exchange.h"
#include "lib/run/bench.h"
#include "lib/run/bench_device.h"
#include "lib/run/bench_ranks.h"
#include "lib/run/bench_table.h"
#include "lib/run/result.h"

namespace moe {
namespace {

// One collective of one size on this rank.
struct Collective {
  std::string type;
  std::int64_t count = 0, bytes = 0;  // as nccl-tests count: of the whole result, of the whole input for reduce_scatter
  double bus_factor = 0;
  std::function<void()> fill;      // before each call
  std::function<void()> run;       // a task of the lane
  std::function<bool()> is_right;  // after each call
};

struct CollectiveRow {
  std::string name, type;
  std::int64_t count = 0, bytes = 0;
  double bus_factor = 0;
  Timing seconds;
  std::int64_t num_wrong = 0;

  bool passed() const { return num_wrong == 0; }
  double algbw() const { return static_cast<double>(bytes) / seconds.median * 1e-9; }
};

// What rank r gives as element i: integers so small that sums are exact.
float element(std::int64_t i, int r) { return static_cast<float>((i * 7 + r * 131) % 1021); }
float sum_of_elements(std::int64_t i, int num_ranks) {
  float sum = 0;
  for (int r = 0; r < num_ranks; ++r) sum += element(i, r);
  return sum;
}

// Floats of the device, and what the host sees of them.
class Floats {
 public:
  Floats(Stream& stream, std::int64_t n) : room_(stream), n_(static_cast<std::size_t>(n)) {}
  std::span<float> data() { return {static_cast<float*>(room_.data(4 * n_)), n_}; }

  // value(i) becomes element i.
  template <class Value>
  void fill(Value value) {
    const std::span<float> image = host();
    for (std::size_t i = 0; i < n_; ++i) image[i] = value(static_cast<std::int64_t>(i));
    room_.push(4 * n_);
  }
  template <class Want>
  bool all_equal(Want want) {
    room_.pull(4 * n_);
    const std::span<float> image = host();
    for (std::size_t i = 0; i < n_; ++i)
      if (!(image[i] == want(static_cast<std::int64_t>(i)))) return false;
    return true;
  }

 private:
  std::span<float> host() { return {static_cast<float*>(room_.image(4 * n_)), n_}; }
  ImagedRoom room_;
  std::size_t n_;
};

struct Buffers {
  Buffers(Stream& stream, std::int64_t num_from, std::int64_t num_to, std::int64_t num_staging)
      : from(stream, num_from), to(stream, num_to), staging(stream, num_staging) {}
  Floats from, to, staging;
};

// A collective on pieces: every rank holds `from`, its elements, and gets `to`.
struct Pieces {
  int n, me;
  std::int64_t piece, count;  // floats of a rank and of all
  std::shared_ptr<Buffers> b;
};

enum class Holds { kPiece, kAll };
Pieces take_pieces(DeviceLink& link, std::int64_t bytes, Holds from, Holds to) {
  const int n = link.host().size(), me = link.host().rank();
  const std::int64_t piece = std::max<std::int64_t>(1, bytes / 4 / n), count = piece * n;
  const auto floats = [&](Holds holds) { return holds == Holds::kAll ? count : piece; };
  auto b = std::make_shared<Buffers>(link.stream(), floats(from), floats(to), staging_floats(n, piece));
  b->from.fill([me](std::int64_t i) { return element(i, me); });
  return {n, me, piece, count, std::move(b)};
}

// Wiped before each run, compared with want(i) after it.
template <class Want>
Collective on_pieces(const Pieces& p, std::function<void()> run, Want want) {
  return {"float",
          p.count,
          p.count * 4,
          (p.n - 1.0) / p.n,
          [b = p.b] { b->to.fill([](std::int64_t) { return -1.0f; }); },
          std::move(run),
          [b = p.b, want] { return b->to.all_equal(want); }};
}

Collective make_exchange(DeviceLink& link, std::int64_t bytes) {
  const Pieces p = take_pieces(link, bytes, Holds::kAll, Holds::kAll);
  const auto run = [&link, p] {
    std::vector<SendPiece> sends;
    std::vector<RecvPiece> receives;
    for (int r = 0; r < p.n; ++r) {
      sends.push_back({r, p.b->from.data().data() + r * p.piece, static_cast<std::size_t>(p.piece) * 4});
      receives.push_back({r, p.b->to.data().data() + r * p.piece, static_cast<std::size_t>(p.piece) * 4});
    }
    link.comm().exchange("exchange", sends, receives);
  };
  return on_pieces(p, run, [piece = p.piece, me = p.me](std::int64_t i) {
    return element(me * piece + i % piece, static_cast<int>(i / piece));
  });
}

Collective make_gather(DeviceLink& link, std::int64_t bytes) {
  const Pieces p = take_pieces(link, bytes, Holds::kPiece, Holds::kAll);
  const auto run = [&link, p] {
    const GatherRows tensor{reinterpret_cast<std::byte*>(p.b->to.data().data()), p.b->from.data().data(), p.count, 4};
    gather_rows(link.comm(), "gather", {&tensor, 1}, link.stream());
  };
  return on_pieces(p, run, [piece = p.piece](std::int64_t i) { return element(i % piece, static_cast<int>(i / piece)); });
}

Collective make_reduce_scatter(DeviceLink& link, std::int64_t bytes) {
  const Pieces p = take_pieces(link, bytes, Holds::kAll, Holds::kPiece);
  const auto run = [&link, p] {
    const ReduceRows tensor{p.b->from.data().data(), p.b->to.data().data(), p.count, 1};
    reduce_rows(link.comm(), "reduce_scatter", {&tensor, 1}, Store::kAssign, p.b->staging.data(), link.env());
  };
  return on_pieces(p, run,
                   [piece = p.piece, me = p.me, n = p.n](std::int64_t i) { return sum_of_elements(me * piece + i, n); });
}

// In memory of a device as gradients are summed over replicas: each rank sums its part, and the parts are gathered.
void sum_on_device(DeviceLink& link, Buffers& b) {
  const std::span<float> all = b.to.data();
  const auto count = static_cast<std::int64_t>(all.size());
  float* const part = all.data() + Cut{link.host().rank(), link.host().size()}.begin(count);
  const ReduceRows sums{all.data(), part, count, 1};
  reduce_rows(link.comm(), "all_reduce_sum", {&sums, 1}, Store::kAssign, b.staging.data(), link.env());
  const GatherRows parts{reinterpret_cast<std::byte*>(all.data()), part, count, 4};
  gather_rows(link.comm(), "all_reduce_sum", {&parts, 1}, link.stream());
}

Collective make_all_reduce(DeviceLink& link, std::int64_t bytes) {
  const int n = link.host().size(), me = link.host().rank();
  const std::int64_t count = std::max<std::int64_t>(1, bytes / 4);
  auto b = std::make_shared<Buffers>(link.stream(), 0, count, staging_floats(n, (count + n - 1) / n));
  const auto run = [&link, b] {
    if (!link.stream().is_cpu()) return sum_on_device(link, *b);
    all_reduce_sum(link.comm(), "all_reduce_sum", b->to.data());
  };
  return {"float",
          count,
          count * 4,
          2 * (n - 1.0) / n,
          [b, me] { b->to.fill([me](std::int64_t i) { return element(i, me); }); },
          run,
          [b, n] { return b->to.all_equal([n](std::int64_t i) { return sum_of_elements(i, n); }); }};
}

Collective make_broadcast(DeviceLink& link, std::int64_t bytes) {
  const int n = link.host().size(), root = n - 1, me = link.host().rank();
  const std::int64_t count = std::max<std::int64_t>(1, bytes / 4);
  auto b = std::make_shared<Buffers>(link.stream(), 0, count, 0);
  const auto fill = [b, me, root] { b->to.fill([me, root](std::int64_t i) { return me == root ? element(i, root) : -1; }); };
  return {"float",
          count,
          count * 4,
          n > 1 ? 1.0 : 0.0,
          fill,
          [&link, b, root] { broadcast(link.comm(), "broadcast", std::as_writable_bytes(b->to.data()), root); },
          [b, root] { return b->to.all_equal([root](std::int64_t i) { return element(i, root); }); }};
}

// The small ones tell latency; a barrier has nothing to check but that it ends.
Collective make_barrier(DeviceLink& link, std::int64_t) {
  return {"-", 0, 0, 0, [] {}, [&link] { barrier(link.host(), "barrier"); }, [] { return true; }};
}

Collective make_all_reduce_one(DeviceLink& link, std::int64_t) {
  const int n = link.host().size(), me = link.host().rank();
  auto value = std::make_shared<std::int64_t>(0);
  return {"int64",
          1,
          8,
          2 * (n - 1.0) / n,
          [value, me] { *value = me + 1; },
          [&link, value] { all_reduce_sum(link.host(), "all_reduce_one", std::span(value.get(), 1)); },
          [value, n] { return *value == std::int64_t{n} * (n + 1) / 2; }};
}

struct Entry {
  const char* name;
  Collective (*make)(DeviceLink&, std::int64_t bytes);
  bool has_sizes;  // in memory of the device; else of the host
};
constexpr Entry kEntries[] = {{"barrier", make_barrier, false},
                              {"all_reduce_one", make_all_reduce_one, false},
                              {"exchange", make_exchange, true},
                              {"gather", make_gather, true},
                              {"reduce_scatter", make_reduce_scatter, true},
                              {"all_reduce_sum", make_all_reduce, true},
                              {"broadcast", make_broadcast, true}};

CollectiveRow measure(World& world, Stream& stream, const char* name, const Collective& c, double budget) {
  CollectiveRow row{name, c.type, c.count, c.bytes, c.bus_factor, {}, 0};
  const auto repeat = [&] {
    c.fill();
    const double seconds = timed_on_lane(world, stream, c.run);
    row.num_wrong += !c.is_right();
    return seconds;
  };
  repeat();
  Stopwatch clock;
  repeat();
  double whole = clock.seconds();
  max_over_ranks(world, std::span(&whole, 1));
  std::vector<double> seconds;
  for (int i = num_repetitions(budget, whole); i > 0; --i) seconds.push_back(repeat());
  max_over_ranks(world, seconds);
  row.seconds = timing_of(seconds);
  sum_over_ranks(world, std::span(&row.num_wrong, 1));
  return row;
}

std::string row_line(const CollectiveRow& r) {
  std::string line = format_text("%-16s %12lld %12lld %-6s %6d", r.name.c_str(), static_cast<long long>(r.bytes),
                                 static_cast<long long>(r.count), r.type.c_str(), r.seconds.num_repetitions);
  if (!r.passed()) return line + format_text(" FAILED: %lld wrong results", static_cast<long long>(r.num_wrong));
  line += format_text(" %10.1f", 1e6 * r.seconds.median);
  return line + (r.bytes > 0 ? format_text(" %8.3f %8.3f ok", r.algbw(), r.algbw() * r.bus_factor)
                             : format_text(" %8s %8s ok", "-", "-"));
}

nlohmann::json row_json(const CollectiveRow& r) {
  nlohmann::json json = {{"name", r.name}, {"bytes", r.bytes},     {"count", r.count},
                         {"type", r.type}, {"passed", r.passed()}, {"wrong", r.num_wrong}};
  if (!r.passed()) return json;
  json["us"] = timing_json(r.seconds);
  if (r.bytes == 0) return json;
  json["algbw_gbytes_per_s"] = r.algbw();
  json["busbw_gbytes_per_s"] = r.algbw() * r.bus_factor;
  return json;
}

std::vector<std::string> head_lines(const World& world, const std::string& link) {
  std::vector<std::string> lines = {
      "# moe-bench collectives: " + ranks_text(world) + "; moe " + version_text(),
      "# size   bytes of the result on a rank; of reduce_scatter and exchange: of its input",
      "# us     median over repetitions of the slowest rank, after a barrier",
      "# algbw  size / time; busbw: algbw x (n-1)/n for exchange, gather, reduce_scatter, 2(n-1)/n for all_reduce, 1 for",
      "#        broadcast: what the links carry, comparable between numbers of ranks; GB/s, 1e9 bytes",
      "# check  every element of every repetition on every rank; sums go in the order of the ranks",
      format_text("%-16s %12s %12s %-6s %6s %10s %8s %8s %s", "# name", "size", "count", "type", "reps", "us", "algbw",
                  "busbw", "check")};
  if (link.empty()) return lines;
  lines.insert(lines.begin() + 1,
               {"# in memory of " + link + "; until the stream is done. all_reduce_sum: reduce_scatter and",
                "#        gather in a row, as gradients of replicas are summed; barrier and all_reduce_one:",
                "#        between hosts over MPI, as the numbers of a step are"});
  return lines;
}

// Names of the wanted ones. The same refusal on every rank.
std::vector<Entry> chosen(const std::string& filter) {
  std::vector<Entry> entries;
  std::string names;
  for (const Entry& e : kEntries) {
    if (std::string(e.name).find(filter) != std::string::npos) entries.push_back(e);
    names += std::string(names.empty() ? "" : ", ") + e.name;
  }
  if (entries.empty())
    throw AgreedError(Exit::kUsage, "--filter: expected part of the name of a collective, found " + filter,
                      "one of " + names, 0);
  return entries;
}

}  // namespace

Exit bench_collectives(const BenchOptions& o, World& world, const Compute& compute, GpuComm way) {
  constexpr std::int64_t kStep = 4;
  const std::vector<Entry> entries = chosen(o.filter);
  std::FILE* out = table_file(o);
  print_lines(world, out, head_lines(world, link_text(compute.device, way)));
  if (o.common.dry_run) return Exit::kOk;
  DeviceLink sender(world, world.comm(), compute, way);
  nlohmann::json rows = nlohmann::json::array();
  bool passed = true;
  for (const Entry& entry : entries)
    for (std::int64_t bytes = o.min_bytes; bytes <= o.max_bytes; bytes *= kStep) {
      const CollectiveRow row =
          measure(world, sender.stream(), entry.name, entry.make(sender, bytes), o.seconds > 0 ? o.seconds : 0.3);
      print_lines(world, out, {row_line(row)});
      rows.push_back(row_json(row));
      if (!compute.on_cpu()) rows.back()["memory"] = entry.has_sizes ? "device" : "host";
      passed = passed && row.passed();
      if (!entry.has_sizes) break;
    }
  nlohmann::json json = bench_json("collectives");
  json.update({{"machine", ranks_json(world)}, {"rows", rows}, {"passed", passed}});
  json["machine"].update(link_json(compute.device, way));
  if (world.rank() == 0) write_result_json(o.common.json, json);
  return passed ? Exit::kOk : Exit::kCheckFailed;
}

}  // namespace moe
