#include "lib/run/summary.h"

#include <algorithm>
#include <cstdio>

#include "lib/base/byte_size.h"
#include "lib/run/global_batch.h"
#include "lib/run/schedule.h"

namespace moe {
namespace {

template <class... Args>
std::string text(const char* format, Args... args) {
  char buffer[256];
  std::snprintf(buffer, sizeof buffer, format, args...);
  return buffer;
}

// 46702792704 -> "46,702,792,704"
std::string grouped(std::int64_t n) {
  std::string s = std::to_string(n);
  for (auto i = static_cast<std::ptrdiff_t>(s.size()) - 3; i > 0; i -= 3) s.insert(static_cast<std::size_t>(i), ",");
  return s;
}

const char* router_text(const ModelConfig& c) { return c.router_score == Score::kSoftmax ? "softmax" : "sigmoid"; }

std::string moe_text(const ModelConfig& c) {
  std::string s = text("%d experts of width %d, top-%d, %s%s", c.num_experts, c.expert_ffn, c.top_k, router_text(c),
                       c.router_renormalize ? " renormalised" : "");
  if (c.num_shared_experts > 0) s += text(", %d shared", c.num_shared_experts);
  if (c.num_expert_groups > 1) s += text(", %d of %d groups", c.num_groups_kept, c.num_expert_groups);
  if (c.router_bias) s += ", bias";
  return s;
}

std::string latent_text(const ModelConfig& c) {
  const std::string queries = c.q_lora_rank > 0 ? text(", queries %d", c.q_lora_rank) : "";
  return text("latent, %d heads of %d + %d / %d, keys and values %d%s", c.num_heads, c.qk_nope_head_dim, c.qk_rope_head_dim,
              c.v_head_dim, c.kv_lora_rank, queries.c_str());
}

std::string attention_text(const ModelConfig& c) {
  if (c.is_mla()) return latent_text(c);
  const char* norm = c.qk_norm == QkNorm::kNone ? "" : c.qk_norm == QkNorm::kHead ? ", QK norm per head" : ", QK norm full";
  return text("%d heads of %d, %d key/value heads%s", c.num_heads, c.head_dim, c.num_kv_heads, norm);
}

std::string balance_text(const BalanceOptions& b) {
  std::string s;
  const std::pair<const char*, float> terms[] = {
      {"aux", b.aux}, {"sequence", b.seq_aux}, {"global", b.global_aux}, {"z", b.z}, {"capacity factor", b.capacity_factor}};
  for (const auto& [name, value] : terms)
    if (value > 0) s += text("%s%s %g", s.empty() ? "" : ", ", name, static_cast<double>(value));
  if (b.bias_update_speed.most() > 0) s += (s.empty() ? "bias step " : ", bias step ") + b.bias_update_speed.text();
  if (b.capacity_factor == 0) s += s.empty() ? "dropless" : ", dropless";
  return s;
}

std::string rate_text(const TrainOptions& o) {
  const std::string warm = text("%g, warm-up of %d steps, ", static_cast<double>(o.lr), o.warmup);
  if (o.schedule == Schedule::kPhases) return warm + o.lr_phases.text();
  if (o.schedule == Schedule::kConstant) return warm + "constant";
  const std::string shape =
      o.schedule == Schedule::kCosine ? "cosine" : text("linear in the last %g", static_cast<double>(o.decay_fraction));
  return warm + shape + text(" to %g of it", static_cast<double>(o.min_lr));
}

}  // namespace

std::string count_text(double n) {
  const char* units[] = {"", " K", " M", " B", " T"};
  int u = 0;
  for (; n >= 1000 && u < 4; ++u) n /= 1000;
  return text(u == 0 ? "%.0f%s" : "%.3f%s", n, units[u]);
}

namespace {

int micro_batch_of(const TrainOptions& o, const MeshShape& mesh) {
  return BatchCut{o.batch, o.micro_batch, o.seq, mesh.size()}.micro_batch_per_rank();
}

// Weights, masters, moments, moving average; of the biases that move experts' load 4 bytes each.
double checkpoint_bytes(const TrainOptions& o, const ParamCounts& n) {
  const double weights = o.dtype == DType::kF32 ? 4 : 2 + 4, moments = static_cast<double>(size_of(o.moments));
  const double biases = o.model.router_bias ? 1.0 * o.model.num_moe_layers() * o.model.num_experts : 0;
  const double parameters = static_cast<double>(n.total + n.mtp) - biases;
  double bytes = parameters * (weights + 2 * moments + (o.ema > 0 ? 4 : 0)) + 4 * biases;
  if (o.optimizer == Optimizer::kMuon)
    for (const ParamSpec& spec : parameter_specs(o.model))
      if (!spec.matrix_rows.empty()) bytes -= moments * static_cast<double>(spec.num_elements());
  return bytes;
}

// "3 GiB = weights 1 GiB, ..."; of a GPU, and behind it what is in memory of the host.
std::string memory_text(const RunSummary& s) {
  const ModelMemory& m = s.memory;
  const auto bytes = [](std::size_t n) { return bytes_text(static_cast<double>(n)); };
  const auto part = [&](const char* name, std::size_t n) { return n ? std::string(", ") + name + " " + bytes(n) : ""; };
  const std::string work = " = weights " + bytes(m.weights) + part("masters", m.masters) + ", gradients " + bytes(m.grads) +
                           ", moments " + bytes(m.moments);
  const std::string passes = ", activations " + bytes(m.activations) + part("buffers", m.buffers);
  if (s.device == DeviceKind::kCpu)
    return bytes(m.total()) + work + part("average", m.ema) + passes + part("saving", m.staging);
  const std::string on_host = (part("average", m.ema) + part("saving", m.staging)).substr(m.on_host() ? 2 : 0);
  return bytes(m.on_gpu()) + work + passes + (m.on_host() ? "; on the host " + on_host : "");
}

}  // namespace

ModelMemory rank_memory(const TrainOptions& o, const MeshOptions& mesh, const MeshPlace& place, DeviceKind device) {
  const PassOptions pass{.shape = {micro_batch_of(o, mesh.shape), o.seq}, .recompute = o.recompute, .balance = o.balance};
  ModelMemory memory = predict_memory(o.model, o.dtype, pass, mesh, place, -1, training_state(o), device);
  const bool during = o.save == SaveMode::kAsync && o.save_every != "0";
  if (!o.output.empty() && (during || device != DeviceKind::kCpu))
    memory.staging = memory.saved / static_cast<std::size_t>(mesh.shape.replicate);
  return memory;
}

RunSummary summarize(const TrainOptions& o, const MeshOptions& mesh, std::int64_t data_tokens,
                     std::int64_t samples_per_epoch, std::int64_t steps, DeviceKind device) {
  RunSummary s;
  s.device = device;
  s.params = count_parameters(o.model);
  s.flop_per_token = flop_per_token(o.model, o.seq);
  s.flop_per_token_full_attention = flop_per_token(o.model, o.seq, false);
  s.mesh = mesh.shape;
  s.micro_batch = micro_batch_of(o, mesh.shape);
  s.memory = rank_memory(o, mesh, {}, device);
  s.tokens_per_step = std::int64_t{o.batch} * o.seq;
  s.steps = steps;
  s.data_tokens = data_tokens;
  s.samples_per_epoch = samples_per_epoch;
  s.tokens = samples_of_steps(o, steps) * o.seq;
  s.checkpoint_bytes = checkpoint_bytes(o, s.params);
  return s;
}

std::string boxed(const std::string& title, const std::vector<std::pair<std::string, std::string>>& rows) {
  std::size_t label = 0, value = 0;
  for (const auto& [l, v] : rows) label = std::max(label, l.size()), value = std::max(value, v.size());
  const std::size_t width = std::max(label + 2 + value, title.size()) + 2;
  std::string out = "+- " + title + " " + std::string(width - title.size() - 3, '-') + "-+\n";
  for (const auto& [l, v] : rows) {
    const std::string line = l + std::string(label + 2 - l.size(), ' ') + v;
    out += "| " + line + std::string(width - 2 - line.size(), ' ') + " |\n";
  }
  return out + "+" + std::string(width, '-') + "+";
}

std::string summary_box(const TrainOptions& o, const RunSummary& s, const std::string& machine) {
  const ModelConfig& c = o.model;
  std::vector<std::pair<std::string, std::string>> rows = {
      {"model", text("%d blocks, width %d, vocabulary %d%s", c.num_layers, c.d_model, c.vocab_size,
                     c.tied_embeddings ? ", tied" : "")},
      {"attention", attention_text(c)},
      {"experts", moe_text(c)},
      {"balance", balance_text(o.balance)},
      {"parameters", grouped(s.params.total) + " (" + count_text(static_cast<double>(s.params.total)) + ")"},
      {"active",
       grouped(s.params.active) + " with the input embedding, " + grouped(s.params.active_no_embedding) + " without"},
      {"FLOP/token", text("%s causal, %s with full attention; forward and backward", count_text(s.flop_per_token).c_str(),
                          count_text(s.flop_per_token_full_attention).c_str())},
      {s.mesh.size() > 1 ? "memory/rank" : "memory", memory_text(s)},
      {"checkpoint", bytes_text(s.checkpoint_bytes)},
      {"batch", text("%d sequences of %d tokens = %lld tokens a step, %d at a time%s", o.batch, o.seq,
                     static_cast<long long>(s.tokens_per_step), s.micro_batch, s.mesh.size() > 1 ? " on a rank" : "")}};
  if (c.num_dense_layers > 0)
    rows.insert(rows.begin() + 3, {"dense", text("first %d blocks, width %d", c.num_dense_layers, c.dense_ffn)});
  if (c.num_mtp_layers > 0)
    rows.insert(std::find_if(rows.begin(), rows.end(), [](const auto& row) { return row.first == "FLOP/token"; }),
                {"prediction", text("%d module%s of %s parameters together, ", c.num_mtp_layers,
                                    c.num_mtp_layers > 1 ? "s" : "", grouped(s.params.mtp).c_str()) +
                                   grouped(s.params.mtp_active) + " active; embedding and head are the model's"});
  if (s.data_tokens > 0)
    rows.push_back({"data", grouped(s.data_tokens) + " tokens, " + grouped(s.samples_per_epoch) + " sequences an epoch"});
  if (o.batch_ramp.grows())
    rows.push_back({"ramp", text("from %d sequences, by %d, within %s tokens", o.batch_ramp.from, o.batch_ramp.step,
                                 count_text(static_cast<double>(o.batch_ramp.tokens)).c_str())});
  rows.push_back({"learning rate", rate_text(o)});
  rows.push_back({"run", s.steps > 0 ? grouped(s.steps) + " steps = " + count_text(static_cast<double>(s.tokens)) + " tokens"
                                     : text("%.0f seconds", o.time_limit)});
  rows.push_back({"machine", machine});
  return boxed("moe-train " + o.preset, rows);
}

nlohmann::json summary_json(const RunSummary& s) {
  nlohmann::json json = {{"params_total", s.params.total},
                         {"params_active", s.params.active},
                         {"params_active_no_embedding", s.params.active_no_embedding},
                         {"params_mtp", s.params.mtp},
                         {"params_mtp_active", s.params.mtp_active},
                         {"flop_per_token", s.flop_per_token},
                         {"flop_per_token_full_attention", s.flop_per_token_full_attention},
                         {"memory_bytes", s.device == DeviceKind::kCpu ? s.memory.total() : s.memory.on_gpu()},
                         {"memory",
                          {{"weights", s.memory.weights},
                           {"masters", s.memory.masters},
                           {"gradients", s.memory.grads},
                           {"moments", s.memory.moments},
                           {"ema", s.memory.ema},
                           {"activations", s.memory.activations},
                           {"buffers", s.memory.buffers},
                           {"staging", s.memory.staging}}},
                         {"mesh", {{"replicate", s.mesh.replicate}, {"shard", s.mesh.shard}, {"ep", s.mesh.ep}}},
                         {"checkpoint_bytes", s.checkpoint_bytes},
                         {"tokens_per_step", s.tokens_per_step},
                         {"planned_tokens", s.tokens},
                         {"planned_steps", s.steps}};
  if (s.device != DeviceKind::kCpu) json["host_memory_bytes"] = s.memory.on_host();
  if (s.traffic) json["traffic"] = traffic_json(*s.traffic);
  return json;
}

}  // namespace moe
