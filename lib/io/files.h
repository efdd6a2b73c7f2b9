// The one layer through which this program touches files: every return is checked, every failure is an Error that names
// the path, and a planned fault (MOE_FAULT, below) can strike at any operation, so that tests can prove what a full disk
// or a kill leaves behind. HDF5 reads and writes through File too (h5_driver.cpp). Not here: what is in the files.
//
// MOE_FAULT=err=ERR,op=OP,n=N,rank=R,path=TEXT,log=FILE: the N-th operation (from 1; N+: it and all after it) of kind OP
// that rank R does on a path that contains TEXT fails with ERR. Only err and n must be there; the others leave nothing out.
//   OP   open, read, write, sync, close, rename, remove, mkdir, stat, list, or any
//   ERR  ENOSPC, EIO, EDQUOT, EROFS, ESTALE, EINTR; short (op=write: half of the bytes are written, then ENOSPC); kill (of
//   the
//        process, just before); delay:MS (late, but it succeeds); count (nothing happens, n is not needed)
//   log  one line "RANK N OPERATION strikes|passes PATH" per operation that counts, appended
// A rank is a process that a launcher started, or a thread that said so (fault.h). Each process counts for itself.
//
// Not through this layer, because they are neither data nor results: /proc, terminals, the configuration file (--config) and
// the log (--log-file, lib/base/log.cpp). tests/files_door_test.sh looks for others.
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
  static File edit(const std::string& path);  // the same, read and write
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();  // closes; a failure that matters was reported by sync() or close()

  void read_at(std::int64_t offset, std::span<std::byte> out) const;     // all of it, else Error 65 (too short) or 74
  void write_at(std::int64_t offset, std::span<const std::byte> bytes);  // all of it, else Error 74
  void truncate(std::int64_t size);
  // Asks the disk to begin with these bytes; sync() waits for them. Only a hint.
  void start_writing(std::int64_t offset, std::int64_t bytes) noexcept;
  void sync() const;  // on the disk when it returns, whoever wrote it
  void close();       // reports what the destructor could not
  std::int64_t size() const;
  const std::string& path() const { return path_; }

 private:
  static File open_as(const std::string& path, int access);
  File(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  int fd_ = -1;
  std::string path_;
};

// Both: Error 74 where the file system does not answer; that is not the same as nothing there.
bool path_exists(const std::string& path);  // of any kind, links not followed
bool is_directory(const std::string& path);
std::vector<std::string> list_directory(const std::string& path);  // names, sorted, without . and ..
std::string parent_directory(const std::string& path);             // "." for a bare name
std::string base_name(const std::string& path);
// Absolute, links followed as far as the path exists.
std::string real_path(const std::string& path);
// True if `path` is `directory` or lies in it, however the two are spelled.
bool is_inside(const std::string& path, const std::string& directory);

void make_directories(const std::string& path);  // with parents, each synced; those that exist are fine
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
  void commit();  // the file must have been synced by its writer; 73 if there is one by now and not force

 private:
  std::string path_, temporary_;
  bool force_;
};

}  // namespace moe
