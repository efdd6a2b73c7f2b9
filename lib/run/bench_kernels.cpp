// `moe-bench kernels`: the table of rows. Not here: the rows themselves (bench_cases.h).
#include <cstdio>
#include <nlohmann/json.hpp>

#include "lib/base/provenance.h"
#include "lib/run/bench.h"
#include "lib/run/bench_cases.h"
#include "lib/run/bench_ranks.h"
#include "lib/run/result.h"

namespace moe {
namespace {

// `filter`: parts of "name shape", with commas between them; empty: all.
bool is_wanted(const BenchEntry& entry, const std::string& filter) {
  const std::string text = entry.name + " " + entry.shape;
  std::size_t begin = 0;
  for (std::size_t end = 0; end != std::string::npos; begin = end + 1) {
    end = filter.find(',', begin);
    if (text.find(filter.substr(begin, end == std::string::npos ? end : end - begin)) != std::string::npos) return true;
  }
  return false;
}

std::vector<BenchEntry> all_entries(const BenchTarget& target, const std::string& filter) {
  std::vector<BenchEntry> all;
  for (const auto list : {gemm_entries, grouped_entries, attention_entries, row_op_entries, ffn_op_entries, routing_entries})
    for (BenchEntry& entry : list(target))
      if (is_wanted(entry, filter)) all.push_back(std::move(entry));
  if (all.empty())
    throw Error(Exit::kUsage, "--filter: expected part of the name or shape of a row, found " + filter,
                "--dry-run lists the rows");
  return all;
}

void print(std::FILE* out, const std::vector<std::string>& lines) {
  for (const std::string& line : lines) std::fprintf(out, "%s\n", line.c_str());
}

void print_head(std::FILE* out, const BenchOptions& o, Env env, const Peaks& peaks) {
  print(out, {"# moe-bench kernels --shape " + o.shape + ": " + name_of(o.dtype) + ", " + std::to_string(o.batch) +
              " sequences of " + std::to_string(o.seq) + " tokens"});
  print(out, machine_lines(env, peaks));
  print(out,
        {"# gemm      M x N x K, y[M,N] = x[M,K] w[N,K]^T or its gradients; grouped: M rows over E experts; 2 M N K",
         "# attention sequences x length x heads x head width, counted causally (pairs j <= i): 2 products forward,",
         "#           5 backward, 2 per pair and column each; attention_window: of 128 keys, with sinks",
         "# rmsnorm   T x D: forward 8 T D bytes, backward_input 12 T D, backward_weight 8 T D; rope T x heads x "
         "width: 8 each",
         "# swiglu    R x F: forward 12 R F, backward 20 R F; bias R x D x E: 4 R D; cross_entropy T x V: 8 T V; adamw n: "
         "step 32 n,",
         "#           sum_of_squares 4 n",
         "# router    T x E x K: forward 8 T (E + K), backward 4 T (5 E + 2 K); permute: plan 12 T K, gather 8 T K D,",
         "#           combine 4 (T K + T) D; embedding T x V x D: forward 8 T D, backward 12 T D"});
  if (o.dtype == DType::kBF16)
    print(out,
          {"#           bytes are those of fp32: in bf16 the matrices' are half, but for logits and gradients of weights"});
  print(out, row_legend(peaks.of_device));
  print(out, {row_header()});
  std::fflush(out);
}

Exit list_rows(const BenchOptions& o, const std::vector<BenchEntry>& entries) {
  nlohmann::json names = nlohmann::json::array();
  for (const BenchEntry& e : entries) {
    std::fprintf(table_file(o), "%-40s %s\n", e.name.c_str(), e.shape.c_str());
    names.push_back({{"name", e.name}, {"shape", e.shape}});
  }
  write_result_json(o.common.json,
                    {{"kind", "moe-bench kernels --dry-run"}, {"schema_version", kBenchSchemaVersion}, {"rows", names}});
  return Exit::kOk;
}

bool still_works(Stream& stream) {
  try {
    stream.synchronize();
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

// Rows that were measured, whatever became of the others: the file is written after each.
class RowsOfRun {
 public:
  RowsOfRun(const BenchOptions& o, Env env, const Peaks& peaks, std::size_t num_entries)
      : o_(o), env_(env), peaks_(peaks), num_entries_(num_entries) {}

  // False where the device is lost: an error of a kernel, once there, is that of every call behind it.
  bool take(const BenchEntry& entry) {
    bool goes_on = true;
    try {
      const BenchRow row = measure(entry, o_.seconds > 0 ? o_.seconds : 0.3, env_.stream);
      num_failed_ += row.passed() ? 0 : 1;
      print(table_file(o_), {row_line(row, peaks_)});
      rows_.push_back(row_json(row, peaks_));
    } catch (const std::exception& e) {
      ++num_failed_;
      print(table_file(o_), {format_text("%-40s %-22s FAILED: %s", entry.name.c_str(), entry.shape.c_str(), e.what())});
      rows_.push_back({{"name", entry.name}, {"shape", entry.shape}, {"passed", false}, {"why", e.what()}});
      goes_on = still_works(env_.stream);
    }
    std::fflush(table_file(o_));
    if (o_.common.json != "-") write();
    return goes_on;
  }
  Exit end() const {
    const std::string missing =
        is_complete() ? "" : "; " + std::to_string(num_entries_ - rows_.size()) + " not measured: the device is lost";
    print(table_file(o_),
          {"# " + std::to_string(rows_.size()) + " rows, " + std::to_string(num_failed_) + " failed their check" + missing});
    if (o_.common.json == "-") write();
    return num_failed_ == 0 ? Exit::kOk : Exit::kCheckFailed;
  }

 private:
  bool is_complete() const { return rows_.size() == num_entries_; }
  void write() const {
    nlohmann::json json = bench_json("kernels");
    json.update({{"shape", o_.shape},
                 {"dtype", name_of(o_.dtype)},
                 {"machine", machine_json(env_)},
                 {"peaks", peaks_json(peaks_)},
                 {"rows", rows_},
                 {"failed", num_failed_},
                 {"complete", is_complete()}});
    write_result_json(o_.common.json, json);
  }

  const BenchOptions& o_;
  Env env_;
  const Peaks& peaks_;
  std::size_t num_entries_;
  nlohmann::json rows_ = nlohmann::json::array();
  int num_failed_ = 0;
};

}  // namespace

Exit bench_kernels(const BenchOptions& o, Env env) {
  const BenchTarget target{env, o.model, o.batch_shape(), o.dtype};
  const std::vector<BenchEntry> entries = all_entries(target, o.filter);
  if (o.common.dry_run) return list_rows(o, entries);
  const Peaks peaks = measure_peaks(env, o.dtype);
  print_head(table_file(o), o, env, peaks);
  RowsOfRun rows(o, env, peaks, entries.size());
  for (const BenchEntry& entry : entries)
    if (!rows.take(entry)) break;
  return rows.end();
}

}  // namespace moe
