// The one layer through which this program touches files: every return is checked, every failure is an Error that names
// the path, and a planned fault (MOE_FAULT, below) can strike at any operation, so that tests can prove what a full disk
// or a kill leaves behind. HDF5 reads and writes through File too (h5.cpp). Not here: what is in the files.
//
// MOE_FAULT=op=OP,n=N,err=ERR: the N-th operation (from 1) of kind OP (open, read, write, sync, rename, remove, mkdir, or
// any) fails with ERR (ENOSPC, EIO, EDQUOT, EROFS) or, with err=kill, kills the process just before it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moe {

// What a file is taken for that is a symbolic link: the file it leads to, or Error 65.
enum class Links { kFollow, kRefuse };

// An open file. Positions are explicit, so nothing is hidden between two calls.
class File {
 public:
  static File create(const std::string& path);  // read and write; must not exist (73)
  // Read only, regular files only; 66 if it is not there.
  static File open(const std::string& path, Links links = Links::kFollow);
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();  // closes; a failure that matters was reported by sync() or close()

  void read_at(std::int64_t offset, std::span<std::byte> out) const;     // all of it, else Error 65 (too short) or 74
  void write_at(std::int64_t offset, std::span<const std::byte> bytes);  // all of it, else Error 74
  void truncate(std::int64_t size);
  void sync();   // on the disk when it returns
  void close();  // reports what the destructor could not
  std::int64_t size() const;
  const std::string& path() const { return path_; }

 private:
  File(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  int fd_ = -1;
  std::string path_;
};

bool path_exists(const std::string& path);  // of any kind, links not followed
bool is_directory(const std::string& path);
std::vector<std::string> list_directory(const std::string& path);  // names, sorted, without . and ..
std::string parent_directory(const std::string& path);             // "." for a bare name
std::string base_name(const std::string& path);

void make_directories(const std::string& path);  // with parents; those that exist are fine
void rename_path(const std::string& from, const std::string& to);
// Exchanges two paths in one step where the file system can; else false and nothing has changed.
bool exchange_paths(const std::string& a, const std::string& b);
void remove_file(const std::string& path);
void remove_tree(const std::string& path) noexcept;  // best effort: cleaning up must not hide the first error
void sync_directory(const std::string& path);

// 65 if it is larger.
std::string read_text_file(const std::string& path, std::int64_t limit_bytes, Links links = Links::kFollow);
void write_text_file(const std::string& path, std::string_view text);  // new file, on the disk
// Replaces path in one step: temporary file, sync, rename, sync of the directory.
void replace_text_file(const std::string& path, std::string_view text);

// Error 74 naming what is missing, unless the file system of `directory` has room for bytes plus 5 % and 1 MiB.
void require_free_space(const std::string& directory, std::int64_t bytes);

// A name part that no other process uses now: HOST-PID-NONCE. owner_is_gone: true for such a name (anywhere in `name`)
// of a process of this host that no longer lives; names of other hosts count as alive.
std::string unique_suffix();
bool owner_is_gone(const std::string& name);

// An output file under a temporary name beside its final one; commit() publishes it, the destructor removes what was not.
class PendingFile {
 public:
  PendingFile(std::string path, bool force);  // 73 if path exists and not force, or its directory does not exist
  PendingFile(PendingFile&& other) noexcept;
  ~PendingFile();
  const std::string& temporary_path() const { return temporary_; }
  const std::string& path() const { return path_; }
  void commit();  // the file must have been synced by its writer

 private:
  std::string path_, temporary_;
};

}  // namespace moe
