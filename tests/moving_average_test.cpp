// The moving average of the parameters where it is kept: what it is made of while masters go on to change, in how many
// pieces it comes, how it takes their place. In memory of a device the stream that computes never waits for the host here.
// Not here: the kernel (adamw_test.cpp), training with it (optimizer_test.cpp, cuda_train_test.sh).
#include "lib/tensor/moving_average.h"

#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "tests/compare.h"
#include "tests/kernel_device.h"
#include "tests/random.h"

namespace moe {
namespace {

std::vector<ParamSpec> specs() {
  return {{.name = "embedding.weight", .shape = {13, 7}, .init_std = 0.5f},
          {.name = "layers.0.norm.weight", .shape = {1}},
          {.name = "layers.0.router.weight", .shape = {4, 64}, .init_std = 1},
          {.name = "layers.0.experts.up", .shape = {4, 5, 3}, .init_std = 2, .is_expert = true},
          {.name = "head.weight", .shape = {97, 11}, .init_std = 0.1f}};
}

struct Case {
  DType dtype = DType::kF32;
  Cut dense{}, expert{};
  int zero = 3;
};
std::string text(const Case& s) {
  return std::string(s.dtype == DType::kF32 ? "fp32" : "bf16") + ", part " + std::to_string(s.dense.index) + " of " +
         std::to_string(s.dense.count) + ", zero " + std::to_string(s.zero);
}
const Case kCases[] = {{},
                       {.dtype = DType::kBF16},
                       {.dense = {1, 3}, .expert = {1, 3}},
                       {.dense = {2, 3}, .expert = {2, 3}, .zero = 1},
                       {.dense = {19, 20}, .zero = 1},  // of some tensors it has nothing
                       {.dtype = DType::kBF16, .dense = {0, 2}, .expert = {0, 2}, .zero = 2}};

// A store of the device under test, as a model takes its memory.
struct Holder {
  std::unique_ptr<Arena> arena, host;
  std::unique_ptr<ParamStore> store;

  explicit Holder(const Case& s) {
    ParamLayout layout = ParamLayout::whole(4);
    layout.dense = s.dense, layout.expert = s.expert, layout.zero = s.zero;
    const auto make = [&](Arena& a) {
      return std::make_unique<ParamStore>(a, specs(), s.dtype, true, layout, TrainingState{.ema = true});
    };
    Arena measuring(0), measuring_host(0);
    make(measuring)->take_ema(measuring_host);
    arena = std::make_unique<Arena>(measuring.used_bytes(), kernel_device());
    host = std::make_unique<Arena>(measuring_host.used_bytes(), kernel_device(), Arena::Backing::kHost);
    store = make(*arena);
    store->take_ema(*host);
  }
  std::deque<std::vector<float>> sources;  // of copies that may be on their way
  // New masters, some time later.
  void change(Stream& stream, std::uint64_t seed) {
    for (const Param& p : store->all()) {
      sources.push_back(random_floats(static_cast<std::size_t>(p.shard_size()), ++seed));
      stream.copy(p.master, sources.back().data(), sources.back().size() * sizeof(float));
    }
  }
  std::vector<float> averages() const {
    std::vector<float> all;
    for (const Param& p : store->all()) all.insert(all.end(), p.ema, p.ema + p.shard_size());
    return all;
  }
  std::vector<float> masters(Stream& stream) const {
    std::vector<float> all;
    for (const Param& p : store->all()) {
      std::vector<float> values(static_cast<std::size_t>(p.shard_size()));
      stream.copy(values.data(), p.master, values.size() * sizeof(float));
      stream.synchronize();
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  }
};

// What the kernel makes of an average that is where the masters are, with nothing beside it.
class InPlace {
 public:
  InPlace(Env env, const Holder& held) : env_(env), kept_(held), arena_(std::size_t{1} << 20, kernel_device()) {
    for (const Param& p : held.store->all()) {
      means_.push_back(arena_.vector<float>(p.shard_size()));
      env.stream.copy(means_.back().data(), p.master, means_.back().size_bytes());
    }
  }
  void update(double decay) {
    for (std::size_t i = 0; i < means_.size(); ++i)
      env_.kernels.adamw.average(env_.stream, means_[i], kept_.store->all()[i].master, decay);
  }
  std::vector<float> values() {
    std::vector<float> all;
    for (const std::span<float> mean : means_) {
      std::vector<float> values(mean.size());
      env_.stream.copy(values.data(), mean.data(), mean.size_bytes());
      env_.stream.synchronize();
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  }

 private:
  Env env_;
  const Holder& kept_;
  Arena arena_;
  std::vector<std::span<float>> means_;
};

TEST(MovingAverage, IsMadeOfTheMastersAfterEachUpdateBitForBit) {
  for (const Case& s : kCases)
    for (const std::int64_t piece : {std::int64_t{7}, std::int64_t{64}, MovingAverage::kPiece}) {
      SCOPED_TRACE(text(s) + ", pieces of " + std::to_string(piece));
      Holder held(s);
      Stream stream(kernel_device(), 1);
      const Env env{stream, device_kernels()};
      MovingAverage average(*held.store, kernel_device(), piece);
      held.change(stream, 1);
      held.store->start_ema(stream);
      InPlace want(env, held);
      for (std::uint64_t step = 0; step < 5; ++step) {
        average.join(stream);
        held.change(stream, 100 * (step + 2));
        want.update(0.9);
        average.update(env, 0.9);
      }
      average.join(stream);
      held.change(stream, 3);  // too late
      stream.synchronize();
      const std::vector<float> got = held.averages();
      EXPECT_TRUE(same_bits(std::span<const float>(got), std::span<const float>(want.values())));
    }
}

// Nobody asks between two updates.
TEST(MovingAverage, TwoUpdatesInARowAreTwo) {
  Holder held({});
  Stream stream(kernel_device(), 1);
  const Env env{stream, device_kernels()};
  MovingAverage average(*held.store, kernel_device(), 50);
  held.store->start_ema(stream);  // zeros
  held.change(stream, 1);
  InPlace want(env, held);
  for (const Param& p : held.store->all())
    stream.copy(p.ema, p.master, static_cast<std::size_t>(p.shard_size()) * sizeof(float));
  held.change(stream, 2);
  for (int i = 0; i < 2; ++i) average.update(env, 0.5), want.update(0.5);
  average.join(stream);
  stream.synchronize();
  const std::vector<float> got = held.averages();
  EXPECT_TRUE(same_bits(std::span<const float>(got), std::span<const float>(want.values())));
}

TEST(MovingAverage, TakesThePlaceOfTheMastersAndGivesItBack) {
  for (const Case& s : kCases) {
    SCOPED_TRACE(text(s));
    Holder held(s);
    Stream stream(kernel_device(), 1);
    const Env env{stream, device_kernels()};
    MovingAverage average(*held.store, kernel_device(), 100);
    held.change(stream, 1);
    held.store->start_ema(stream);
    held.change(stream, 2);
    average.update(env, 0.75);
    const std::vector<float> trained = held.masters(stream);
    average.join(stream);
    held.store->swap_ema(env);
    const std::vector<float> averaged = held.masters(stream);
    EXPECT_TRUE(same_bits(std::span<const float>(held.averages()), std::span<const float>(trained)));
    EXPECT_FALSE(same_bits(std::span<const float>(averaged), std::span<const float>(trained)));
    held.store->swap_ema(env);
    EXPECT_TRUE(same_bits(std::span<const float>(held.masters(stream)), std::span<const float>(trained)));
    EXPECT_TRUE(same_bits(std::span<const float>(held.averages()), std::span<const float>(averaged)));
  }
}

TEST(MovingAverage, TakesTwoRoomsOfTheDevice) {
  const Holder held({});
  const auto used = [] {
    std::size_t bytes = 0, total = 0;
    kernel_device().memory(&bytes, &total);
    return bytes;
  };
  constexpr std::int64_t kMany = 64;
  EXPECT_EQ(MovingAverage::device_bytes(*held.store, kMany), 2 * kMany * sizeof(float));
  const std::size_t all = MovingAverage::device_bytes(*held.store) / 2;
  EXPECT_GE(all, held.averages().size() * sizeof(float));
  EXPECT_LE(all, held.averages().size() * sizeof(float) + 64 * specs().size());
  const std::size_t before = used();
  const MovingAverage average(*held.store, kernel_device(), kMany);
  EXPECT_LE(used() - before, std::size_t{8} << 20);  // pages of the driver, and what a stream takes
}

}  // namespace
}  // namespace moe
