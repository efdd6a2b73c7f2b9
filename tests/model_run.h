// The real model driven in the terms of the specification (tests/reference.h): parameters by name, one batch in, logits,
// losses, gradients and counts out. A batch may go through in several micro-batches, as lib/run/trainer.cpp does it.
// Not here: judgements.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "lib/model/host_model.h"
#include "lib/model/model.h"
#include "lib/model/mtp.h"
#include "tests/kernel_device.h"
#include "tests/reference.h"

namespace moe {

struct RealSetting {
  const Kernels* kernels = &device_kernels();
  int threads = 1;
  DType dtype = DType::kF32;
  Recompute recompute = Recompute::kNone;
  int micro_batch = 0;  // sequences; 0: the whole batch
  double mtp_weight = 0;
};

struct RealOutput {
  std::vector<float> logits;  // [T, V]
  double loss = 0;            // cross entropy, mean over counted tokens
  double aux = 0, seq_aux = 0, global_aux = 0, z = 0;
  std::vector<double> mtp;  // cross entropy of each module, mean over its counted targets
  double mtp_weighted = 0;
  double total() const { return loss + aux + seq_aux + global_aux + z + mtp_weighted; }
  std::map<std::string, std::vector<float>> grads;
  std::vector<RoutingTally> tallies;  // [L]
};

class RealModel {
 public:
  // router_bias: "layers.{i}.router.bias" -> [E]
  RealModel(const ModelConfig& config, const ReferenceParams& params, const ReferenceParams& router_bias,
            const BalanceOptions& balance, int num_seqs, int seq_len, const RealSetting& setting)
      : setting_(setting),
        balance_(balance),
        num_seqs_(num_seqs),
        stream_(kernel_device(), setting.threads),
        model_(config, setting.dtype, true, *setting.kernels, kernel_device()),
        pass_(model_, options(seq_len, true), {stream_, *setting.kernels}),
        eval_(model_, options(seq_len, false), {stream_, *setting.kernels}) {
    HostModel host(model_);
    for (Param& p : host.model().params().all()) {
      const std::vector<double>& w = params.at(p.spec.name);
      for (std::size_t i = 0; i < w.size(); ++i) p.master[i] = static_cast<float>(w[i]);
    }
    Stream on_cpu(1);
    host.model().params().round_masters({on_cpu, cpu_kernels()});
    for (const auto& [name, b] : router_bias) host.model().router_bias(std::stoi(name.substr(7))).assign(b.begin(), b.end());
    host.push();
  }

  // Forward and backward; parameter gradients are added to what is there.
  RealOutput gradients(const ReferenceInput& in) {
    RealOutput out;
    pass_.reset_tallies();
    set_mtp_scale(in);
    out.mtp.resize(mtp_scale_.size());
    const auto T = static_cast<std::size_t>(pass_.shape().num_tokens());
    for (std::size_t at = 0; at < in.tokens.size(); at += T) {
      const MicroBatch batch = micro_batch(in, at, T);
      pass_.forward(batch);
      const std::vector<double> losses = pass_.take_losses();
      out.loss += losses[0] * batch.loss_scale;
      for (std::size_t k = 0; k < out.mtp.size(); ++k) {
        out.mtp[k] += losses[1 + k] / std::max(1.0, mtp_counted_[k]);
        out.mtp_weighted += losses[1 + k] * mtp_scale_[k];
      }
      pass_.backward(batch);
    }
    pass_.pull_tallies();
    out.tallies = pass_.tallies();
    for (const RoutingTally& t : out.tallies)
      out.aux += t.aux, out.seq_aux += t.seq_aux, out.global_aux += t.global_aux, out.z += t.z;
    for (const Param& p : model_.params().all()) {
      std::vector<float>& g = out.grads[p.spec.name];
      g.resize(static_cast<std::size_t>(p.spec.num_elements()));
      stream_.copy(g.data(), p.grad.data, g.size() * sizeof(float));
    }
    stream_.synchronize();
    return out;
  }

  // The logits of a pass without gradient, which is a pass of its own.
  std::vector<float> logits(const ReferenceInput& in) {
    std::vector<float> all;
    const auto T = static_cast<std::size_t>(eval_.shape().num_tokens());
    for (std::size_t at = 0; at < in.tokens.size(); at += T) {
      MicroBatch batch = micro_batch(in, at, T);
      batch.with_gradient = batch.tally = false;
      eval_.forward(batch);
      const Mat l = eval_.logits();
      const std::size_t before = all.size();
      all.resize(before + static_cast<std::size_t>(l.rows * l.cols));
      stream_.copy(all.data() + before, l.data, (all.size() - before) * sizeof(float));
      stream_.synchronize();
    }
    return all;
  }

  double grad_norm() {
    std::vector<std::span<const float>> gradients;
    for (const AdamWTensor& t : model_.params().adamw_tensors(0)) gradients.emplace_back(t.g, static_cast<std::size_t>(t.n));
    DeviceNumber squares(stream_);
    setting_.kernels->adamw.sum_of_squares(stream_, gradients, squares.data());
    return std::sqrt(squares.wait());
  }
  void adamw(float decay, const AdamWHyper& hyper) {
    setting_.kernels->adamw.step(stream_, model_.params().adamw_tensors(decay), hyper);
  }
  void zero_gradients() {
    for (const AdamWTensor& t : model_.params().adamw_tensors(0))
      stream_.zero(t.g, static_cast<std::size_t>(t.n) * sizeof(float));
  }
  void move_router_bias(float speed) {
    for (const int i : model_.moe_layers())
      if (!model_.router_bias(i).empty())
        update_router_bias(model_.router_bias(i), pass_.tallies()[static_cast<std::size_t>(i)].counts_E, speed);
    model_.router_bias_changed();
  }
  Model& model() { return model_; }

 private:
  void set_mtp_scale(const ReferenceInput& in) {
    const MicroBatch whole{.shape = {in.num_seqs, in.seq_len},
                           .target_T = in.targets,
                           .doc_start_T = in.doc_start.empty() ? nullptr : in.doc_start.data()};
    mtp_scale_.clear(), mtp_counted_.clear();
    for (int k = 0; k < pass_.num_modules(); ++k) {
      mtp_counted_.push_back(static_cast<double>(num_mtp_targets(whole, k)));
      mtp_scale_.push_back(setting_.mtp_weight / pass_.num_modules() / std::max(1.0, mtp_counted_.back()));
    }
  }
  PassOptions options(int seq_len, bool training) const {
    const int seqs = setting_.micro_batch > 0 ? setting_.micro_batch : num_seqs_;
    return {.shape = {seqs, seq_len}, .recompute = setting_.recompute, .balance = balance_, .training = training};
  }
  MicroBatch micro_batch(const ReferenceInput& in, std::size_t at, std::size_t T) const {
    const auto counted = std::count_if(in.targets.begin(), in.targets.end(), [](std::int32_t t) { return t >= 0; });
    return {.shape = pass_.shape(),
            .id_T = std::span(in.tokens).subspan(at, T),
            .target_T = std::span(in.targets).subspan(at, T),
            .doc_start_T = in.doc_start.empty() ? nullptr : in.doc_start.data() + at,
            .loss_scale = 1.0 / static_cast<double>(std::max<std::ptrdiff_t>(1, counted)),
            .share = static_cast<float>(T) / static_cast<float>(in.tokens.size()),
            .mtp_scale_D = mtp_scale_};
  }

  RealSetting setting_;
  BalanceOptions balance_;
  int num_seqs_;
  std::vector<double> mtp_scale_, mtp_counted_;
  Stream stream_;
  Model model_;
  Pass pass_, eval_;
};

}  // namespace moe
