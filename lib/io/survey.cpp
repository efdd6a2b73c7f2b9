#include "lib/io/survey.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <thread>

#include "lib/base/error.h"
#include "lib/io/digest.h"
#include "lib/io/files.h"
#include "lib/io/finite.h"
#include "lib/io/manifest.h"
#include "lib/io/verify.h"

namespace moe {
namespace {

constexpr std::int64_t kBlockBytes = std::int64_t{256} << 10;  // stays in the second-level cache for both digests

// Where the elements of a slice lie in its file.
struct Piece {
  const ManifestTensor* tensor;
  const ManifestSlice* slice;
  std::int64_t begin = 0, end = 0;
};

// A file and what was found in it. Each is worked on by one thread.
struct Job {
  std::string path;
  const ManifestFile* file = nullptr;
  std::vector<Piece> pieces;  // in the order of the file
  std::vector<std::pair<const ManifestTensor*, Digest>> sums;
  std::vector<std::string> faults;
  std::int64_t bytes = 0;

  void add(const std::string& what) { faults.push_back(path + ": " + what); }
  void add_digest(const std::string& thing, const std::string& want, const std::string& found) {
    if (found != want) add(thing + "expected digest " + want + ", found " + found);
  }
};

std::string name_of_piece(const Piece& p) {
  return "tensor " + p.tensor->label() + ", slice at [" + joined(p.slice->box.offset) + "]: ";
}

std::vector<Job> jobs_of(const Manifest& m, const std::string& directory) {
  std::vector<Job> jobs(m.files.size());
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    jobs[i].file = &m.files[i];
    jobs[i].path = directory + "/" + m.files[i].name;
  }
  for (const ManifestTensor& t : m.tensors)
    for (const ManifestSlice& s : t.slices) jobs[s.file].pieces.push_back({&t, &s});
  return jobs;
}

// Asks HDF5 where each slice lies, one file after the other; slices that it cannot find are faults and go. Slices that share
// bytes are faults too: no file of ours has them, and many could make the work as long as they like.
void locate(const Manifest& m, const std::string& directory, Job& job) try {
  const H5Reader shard = open_shard(m, static_cast<std::size_t>(job.file - m.files.data()), directory);
  std::erase_if(job.pieces, [&](Piece& p) {
    try {
      const H5Dataset d = slice_dataset(shard, *p.tensor, *p.slice, job.path);
      p.begin = d.file_offset;
      p.end = d.file_offset + d.bytes();
      return false;
    } catch (const Error& e) {
      job.faults.emplace_back(e.what());
      return true;
    }
  });
  std::sort(job.pieces.begin(), job.pieces.end(), [](const Piece& a, const Piece& b) { return a.begin < b.begin; });
  std::int64_t end = 0;
  std::erase_if(job.pieces, [&](const Piece& p) {
    const bool shares = p.begin < end;
    if (shares) job.add(name_of_piece(p) + "its bytes are those of another slice too");
    end = std::max(end, p.end);
    return shares;
  });
} catch (const Error& e) {
  job.faults.emplace_back(e.what());
  job.pieces.clear();
}

// The bytes of one slice as they come by.
class PieceCheck {
 public:
  PieceCheck(const Piece& piece, bool deep) : piece_(piece), sum_(piece.tensor->identity()), deep_(deep) {}

  void take(std::span<const std::byte> bytes) {
    digest_.update(bytes);
    piece_.tensor->dtype == DType::kF32 ? take_elements<std::uint32_t>(bytes) : take_elements<std::uint16_t>(bytes);
  }
  void finish(Job& job) const {
    job.add_digest(name_of_piece(piece_), piece_.slice->digest, digest_.digest().hex());
    if (bad_ >= 0) job.add(name_of_piece(piece_) + "element " + std::to_string(bad_) + " of it is not finite");
    if (deep_) job.sums.emplace_back(piece_.tensor, sum_.value());
  }

 private:
  template <class Bits>
  void take_elements(std::span<const std::byte> bytes) {
    const std::span all(reinterpret_cast<const Bits*>(bytes.data()), bytes.size() / sizeof(Bits));
    if (const std::int64_t bad = bad_ < 0 ? first_not_finite(all) : -1; bad >= 0) bad_ = taken_ + bad;
    for (std::span left = all; deep_ && !left.empty();) {
      const Run run = run_at(piece_.tensor->shape, piece_.slice->box, taken_ + (left.data() - all.data()));
      const auto n = std::min<std::size_t>(left.size(), static_cast<std::size_t>(run.count));
      sum_.add(static_cast<std::uint64_t>(run.first), left.first(n));
      left = left.subspan(n);
    }
    taken_ += static_cast<std::int64_t>(all.size());
  }

  const Piece& piece_;
  Xxh3 digest_;
  ElementSum sum_;
  std::int64_t taken_ = 0, bad_ = -1;
  bool deep_;
};

// The file from its first byte to its last: between the slices and the slices themselves, in blocks.
void read_through(Job& job, bool deep) {
  const File file = File::open(job.path, Links::kRefuse);
  const std::int64_t size = file.size();
  if (size != job.file->bytes)
    job.add("expected " + std::to_string(job.file->bytes) + " bytes, found " + std::to_string(size));
  std::vector<std::byte> block(static_cast<std::size_t>(kBlockBytes));
  Xxh3 of_file;
  const auto read = [&](std::int64_t end, PieceCheck* check) {
    while (job.bytes < end) {
      const auto bytes = std::span(block).first(static_cast<std::size_t>(std::min(kBlockBytes, end - job.bytes)));
      file.read_at(job.bytes, bytes);
      of_file.update(bytes);
      if (check != nullptr) check->take(bytes);
      job.bytes += static_cast<std::int64_t>(bytes.size());
    }
  };
  for (const Piece& p : job.pieces) {
    PieceCheck check(p, deep);
    read(p.begin, nullptr);
    read(p.end, &check);
    check.finish(job);
  }
  read(size, nullptr);
  job.add_digest("", job.file->digest, of_file.digest().hex());
}

void work(std::vector<Job>& jobs, int threads, bool deep) {
  std::atomic<std::size_t> next = 0;
  const auto run = [&] {
    for (std::size_t i = next++; i < jobs.size(); i = next++) try {
        read_through(jobs[i], deep);
      } catch (const Error& e) {
        jobs[i].faults.emplace_back(e.what());
      }
  };
  std::vector<std::jthread> helpers;
  for (int t = 1; t < std::min<int>(threads, static_cast<int>(jobs.size())); ++t) helpers.emplace_back(run);
  run();
}

// Tensors whose elements do not have the digest that the manifest says, if no slice of them is missing.
void check_sums(const Manifest& m, const std::vector<Job>& jobs, std::vector<std::string>& faults) {
  std::map<const ManifestTensor*, std::pair<ElementSum, std::size_t>> sums;
  for (const Job& job : jobs)
    for (const auto& [tensor, sum] : job.sums) {
      auto& [all, count] = sums.try_emplace(tensor, ElementSum(tensor->identity()), 0).first->second;
      all.add(sum);
      ++count;
    }
  for (const ManifestTensor& t : m.tensors) {
    const auto sum = sums.find(&t);
    if (sum == sums.end() || sum->second.second != t.slices.size()) continue;
    if (const std::string found = sum->second.first.value().hex(); found != t.digest)
      faults.push_back("tensor " + t.label() + ": expected digest " + t.digest + " of all elements, found " + found);
  }
}

}  // namespace

Survey survey_checkpoint(const std::string& directory, int threads, bool deep) {
  Survey survey;
  Manifest m;
  try {
    m = read_manifest(directory);
  } catch (const Error& e) {
    if (e.code() == Exit::kNoInput) throw;
    survey.faults.emplace_back(e.what());
    return survey;
  }
  survey.step = m.step;
  survey.digest = m.digest;
  survey.num_files = static_cast<std::int64_t>(m.files.size());
  survey.num_tensors = static_cast<std::int64_t>(m.tensors.size());
  for (const ManifestTensor& t : m.tensors) survey.num_slices += static_cast<std::int64_t>(t.slices.size());
  std::vector<Job> jobs = jobs_of(m, directory);
  for (Job& job : jobs) locate(m, directory, job);
  work(jobs, threads, deep);
  for (const Job& job : jobs) {
    // What cannot be opened was said once by locate() and once by read_through().
    for (const std::string& fault : job.faults)
      if (survey.faults.empty() || survey.faults.back() != fault) survey.faults.push_back(fault);
    survey.bytes += job.bytes;
  }
  if (deep) check_sums(m, jobs, survey.faults);
  return survey;
}

}  // namespace moe
