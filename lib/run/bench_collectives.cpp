// `moe-bench collectives`: what a training run does over all ranks, in the manner of nccl-tests: algbw = size / time, busbw
// = algbw x the part of the size that crosses the links of a rank in the best algorithm. Not here: exchange of routed rows
// (bench_dispatch.cpp).
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "lib/base/provenance.h"
#include "lib/base/stopwatch.h"
#include "lib/comm/collectives.h"
#include "lib/parallel/row_exchange.h"
#include "lib/run/bench.h"
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

struct Buffers {
  std::vector<float> from, to, staging;
  Stream stream{1};
};

template <class Want>
bool all_equal(const std::vector<float>& values, Want want) {
  for (std::size_t i = 0; i < values.size(); ++i)
    if (!(values[i] == want(static_cast<std::int64_t>(i)))) return false;
  return true;
}

// A collective on pieces: every rank holds `from`, its elements, and gets `to`.
struct Pieces {
  int n, me;
  std::int64_t piece, count;  // floats of a rank and of all
  std::shared_ptr<Buffers> b;
};

enum class Holds { kPiece, kAll };
Pieces take_pieces(const Comm& comm, std::int64_t bytes, Holds from, Holds to) {
  const int n = comm.size();
  const std::int64_t piece = std::max<std::int64_t>(1, bytes / 4 / n);
  Pieces p{n, comm.rank(), piece, piece * n, std::make_shared<Buffers>()};
  const auto size = [&](Holds holds) { return static_cast<std::size_t>(holds == Holds::kAll ? p.count : p.piece); };
  p.b->from.resize(size(from)), p.b->to.resize(size(to));
  for (std::size_t i = 0; i < p.b->from.size(); ++i) p.b->from[i] = element(static_cast<std::int64_t>(i), p.me);
  return p;
}

// Wiped before each run, compared with want(i) after it.
template <class Want>
Collective on_pieces(const Pieces& p, std::function<void()> run, Want want) {
  const auto wipe = [b = p.b] { std::fill(b->to.begin(), b->to.end(), -1.0f); };
  return {"float",
          p.count,
          p.count * 4,
          (p.n - 1.0) / p.n,
          wipe,
          std::move(run),
          [b = p.b, want] { return all_equal(b->to, want); }};
}

Collective make_exchange(Comm& comm, std::int64_t bytes) {
  const Pieces p = take_pieces(comm, bytes, Holds::kAll, Holds::kAll);
  const auto run = [&comm, p] {
    std::vector<SendPiece> sends;
    std::vector<RecvPiece> receives;
    for (int r = 0; r < p.n; ++r) {
      sends.push_back({r, p.b->from.data() + r * p.piece, static_cast<std::size_t>(p.piece) * 4});
      receives.push_back({r, p.b->to.data() + r * p.piece, static_cast<std::size_t>(p.piece) * 4});
    }
    comm.exchange("exchange", sends, receives);
  };
  return on_pieces(p, run, [piece = p.piece, me = p.me](std::int64_t i) {
    return element(me * piece + i % piece, static_cast<int>(i / piece));
  });
}

Collective make_gather(Comm& comm, std::int64_t bytes) {
  const Pieces p = take_pieces(comm, bytes, Holds::kPiece, Holds::kAll);
  const auto run = [&comm, p] {
    const GatherRows tensor{reinterpret_cast<std::byte*>(p.b->to.data()), p.b->from.data(), p.count, 4};
    gather_rows(comm, "gather", {&tensor, 1}, p.b->stream);
  };
  return on_pieces(p, run, [piece = p.piece](std::int64_t i) { return element(i % piece, static_cast<int>(i / piece)); });
}

Collective make_reduce_scatter(Comm& comm, std::int64_t bytes) {
  const Pieces p = take_pieces(comm, bytes, Holds::kAll, Holds::kPiece);
  p.b->staging.resize(static_cast<std::size_t>(staging_floats(p.n, p.piece)));
  const auto run = [&comm, p] {
    const ReduceRows tensor{p.b->from.data(), p.b->to.data(), p.count, 1};
    reduce_rows(comm, "reduce_scatter", {&tensor, 1}, Store::kAssign, p.b->staging, {p.b->stream, cpu_kernels()});
  };
  return on_pieces(p, run,
                   [piece = p.piece, me = p.me, n = p.n](std::int64_t i) { return sum_of_elements(me * piece + i, n); });
}

Collective make_all_reduce(Comm& comm, std::int64_t bytes) {
  const int n = comm.size(), me = comm.rank();
  const std::int64_t count = std::max<std::int64_t>(1, bytes / 4);
  auto b = std::make_shared<Buffers>();
  b->to.resize(static_cast<std::size_t>(count));
  const auto fill = [b, me] {
    for (std::size_t i = 0; i < b->to.size(); ++i) b->to[i] = element(static_cast<std::int64_t>(i), me);
  };
  return {"float",
          count,
          count * 4,
          2 * (n - 1.0) / n,
          fill,
          [&comm, b] { all_reduce_sum(comm, "all_reduce_sum", std::span(b->to)); },
          [b, n] { return all_equal(b->to, [n](std::int64_t i) { return sum_of_elements(i, n); }); }};
}

Collective make_broadcast(Comm& comm, std::int64_t bytes) {
  const int root = comm.size() - 1, me = comm.rank();
  const std::int64_t count = std::max<std::int64_t>(1, bytes / 4);
  auto b = std::make_shared<Buffers>();
  b->to.resize(static_cast<std::size_t>(count));
  const auto fill = [b, me, root] {
    for (std::size_t i = 0; i < b->to.size(); ++i) b->to[i] = me == root ? element(static_cast<std::int64_t>(i), root) : -1;
  };
  return {"float",
          count,
          count * 4,
          comm.size() > 1 ? 1.0 : 0.0,
          fill,
          [&comm, b, root] { broadcast(comm, "broadcast", std::as_writable_bytes(std::span(b->to)), root); },
          [b, root] { return all_equal(b->to, [root](std::int64_t i) { return element(i, root); }); }};
}

// The small ones tell latency; a barrier has nothing to check but that it ends.
Collective make_barrier(Comm& comm, std::int64_t) {
  return {"-", 0, 0, 0, [] {}, [&comm] { barrier(comm, "barrier"); }, [] { return true; }};
}

Collective make_all_reduce_one(Comm& comm, std::int64_t) {
  const int n = comm.size(), me = comm.rank();
  auto value = std::make_shared<std::int64_t>(0);
  return {"int64",
          1,
          8,
          2 * (n - 1.0) / n,
          [value, me] { *value = me + 1; },
          [&comm, value] { all_reduce_sum(comm, "all_reduce_one", std::span(value.get(), 1)); },
          [value, n] { return *value == std::int64_t{n} * (n + 1) / 2; }};
}

struct Entry {
  const char* name;
  Collective (*make)(Comm&, std::int64_t bytes);
  bool has_sizes;
};
constexpr Entry kEntries[] = {{"barrier", make_barrier, false},
                              {"all_reduce_one", make_all_reduce_one, false},
                              {"exchange", make_exchange, true},
                              {"gather", make_gather, true},
                              {"reduce_scatter", make_reduce_scatter, true},
                              {"all_reduce_sum", make_all_reduce, true},
                              {"broadcast", make_broadcast, true}};

CollectiveRow measure(World& world, const char* name, const Collective& c, double budget) {
  CollectiveRow row{name, c.type, c.count, c.bytes, c.bus_factor, {}, 0};
  const auto repeat = [&] {
    c.fill();
    const double seconds = timed_on_lane(world, c.run);
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

std::vector<std::string> head_lines(const World& world) {
  return {
      "# moe-bench collectives: " + ranks_text(world) + "; moe " + version_text(),
      "# size   bytes of the result on a rank; of reduce_scatter and exchange: of its input",
      "# us     median over repetitions of the slowest rank, after a barrier",
      "# algbw  size / time; busbw: algbw x (n-1)/n for exchange, gather, reduce_scatter, 2(n-1)/n for all_reduce, 1 for",
      "#        broadcast: what the links carry, comparable between numbers of ranks; GB/s, 1e9 bytes",
      "# check  every element of every repetition on every rank; sums go in the order of the ranks",
      format_text("%-16s %12s %12s %-6s %6s %10s %8s %8s %s", "# name", "size", "count", "type", "reps", "us", "algbw",
                  "busbw", "check")};
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

Exit bench_collectives(const BenchOptions& o, World& world) {
  constexpr std::int64_t kStep = 4;
  const std::vector<Entry> entries = chosen(o.filter);
  std::FILE* out = table_file(o);
  print_lines(world, out, head_lines(world));
  nlohmann::json rows = nlohmann::json::array();
  bool passed = true;
  for (const Entry& entry : entries)
    for (std::int64_t bytes = o.min_bytes; bytes <= o.max_bytes; bytes *= kStep) {
      if (o.common.dry_run) continue;
      const CollectiveRow row = measure(world, entry.name, entry.make(world.comm(), bytes), o.seconds > 0 ? o.seconds : 0.3);
      print_lines(world, out, {row_line(row)});
      rows.push_back(row_json(row));
      passed = passed && row.passed();
      if (!entry.has_sizes) break;
    }
  nlohmann::json json = bench_json("collectives");
  json.update({{"machine", ranks_json(world)}, {"rows", rows}, {"passed", passed}});
  if (world.rank() == 0) write_result_json(o.common.json, json);
  return passed ? Exit::kOk : Exit::kCheckFailed;
}

}  // namespace moe
