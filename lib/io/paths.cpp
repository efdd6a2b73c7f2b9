// Paths: what is there, making, renaming and removing, room on the disk, output under a temporary name. Not here: what is
// read from and written to a file (files.cpp).
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <utility>

#include "lib/io/files.h"
#include "lib/io/guarded.h"

namespace moe {
namespace {

// The kind of file at path (S_IFREG, S_IFDIR, ...), or with `follow` of what a link there leads to; 0 if there is none. A
// file system that does not answer is an Error: what cannot be seen must not pass for what is not there.
mode_t kind_of(const std::string& path, bool follow) {
  struct stat st {};
  const int rc = guarded("stat", path, [&] { return follow ? ::stat(path.c_str(), &st) : ::lstat(path.c_str(), &st); });
  if (rc == 0) return st.st_mode & S_IFMT;
  for (const int e : {ENOENT, ENOTDIR, ENAMETOOLONG, ELOOP})
    if (errno == e) return 0;
  fail(Exit::kIo, path, "cannot stat", errno);
}

}  // namespace

bool path_exists(const std::string& path) { return kind_of(path, false) != 0; }
bool is_directory(const std::string& path) { return kind_of(path, true) == S_IFDIR; }

std::vector<std::string> list_directory(const std::string& path) {
  std::vector<std::string> names;
  const int rc = guarded("list", path, [&] {
    DIR* const directory = ::opendir(path.c_str());
    if (directory == nullptr) return -1;
    names.clear();
    errno = 0;  // the only way to tell a failure from the end
    while (const dirent* entry = ::readdir(directory)) names.emplace_back(entry->d_name);
    const int error = errno;
    ::closedir(directory);
    errno = error;
    return error == 0 ? 0 : -1;
  });
  if (rc != 0) fail(errno == ENOENT ? Exit::kNoInput : Exit::kIo, path, "cannot list", errno);
  std::erase(names, ".");
  std::erase(names, "..");
  std::sort(names.begin(), names.end());
  return names;
}

std::string parent_directory(const std::string& path) {
  const std::size_t end = path.find_last_not_of('/');
  const std::size_t slash = end == std::string::npos ? end : path.rfind('/', end);
  if (slash == std::string::npos) return path.starts_with('/') ? "/" : ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string base_name(const std::string& path) {
  const std::size_t end = path.find_last_not_of('/');
  if (end == std::string::npos) return path;
  const std::size_t slash = path.rfind('/', end);
  const std::size_t begin = slash == std::string::npos ? 0 : slash + 1;
  return path.substr(begin, end + 1 - begin);
}

std::string real_path(const std::string& path) {
  std::error_code unknown;
  std::string real = std::filesystem::weakly_canonical(std::filesystem::absolute(path), unknown).string();
  while (real.size() > 1 && real.back() == '/') real.pop_back();
  return unknown ? path : real;
}

bool is_inside(const std::string& path, const std::string& directory) {
  const std::string inner = real_path(path), outer = real_path(directory);
  return inner == outer || outer == "/" || inner.starts_with(outer + "/");
}

// Each is synced into its parent: what is written below does not get lost with the way to it. One that could not be is
// removed again.
void make_directories(const std::string& path) {
  if (is_directory(path)) return;
  const std::string parent = parent_directory(path);
  if (parent != path) make_directories(parent);
  const int rc = guarded("mkdir", path, [&] { return ::mkdir(path.c_str(), 0755); });
  if (rc != 0 && errno != EEXIST) fail(code_of_create(errno), path, "cannot make the directory", errno);
  if (rc != 0 && !is_directory(path)) fail(Exit::kCannotCreate, path, "cannot make the directory", EEXIST);
  if (rc != 0) return;
  try {
    sync_directory(parent);
  } catch (...) {
    remove_tree(path);
    throw;
  }
}

void rename_path(const std::string& from, const std::string& to) {
  const int rc = guarded("rename", from, [&] { return ::rename(from.c_str(), to.c_str()); });
  if (rc != 0) fail(Exit::kIo, from, "cannot rename to " + to, errno);
}

bool exchange_paths(const std::string& a, const std::string& b) {
  const int rc =
      guarded("rename", a, [&] { return ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE); });
  if (rc == 0) return true;
  if (errno == EINVAL || errno == ENOSYS) return false;
  fail(Exit::kIo, a, "cannot exchange with " + b, errno);
}

void remove_file(const std::string& path) {
  if (guarded("remove", path, [&] { return ::unlink(path.c_str()); }) != 0) fail(Exit::kIo, path, "cannot remove", errno);
}

// Links are removed, never followed: what they lead to belongs to somebody else.
void remove_tree(const std::string& path) noexcept try {
  const mode_t kind = kind_of(path, false);
  if (kind == S_IFDIR) {
    for (const std::string& name : list_directory(path)) remove_tree(path + "/" + name);
    static_cast<void>(guarded("remove", path, [&] { return ::rmdir(path.c_str()); }));
  } else if (kind != 0) {
    static_cast<void>(guarded("remove", path, [&] { return ::unlink(path.c_str()); }));
  }
} catch (...) {
}

// A directory that may be written but not listed (EACCES), and a file system that has no sync of directories (EINVAL), are
// as safe as they can be.
void sync_directory(const std::string& path) {
  const int fd = guarded("open", path, [&] { return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (fd < 0 && errno == EACCES) return;
  if (fd < 0) fail(Exit::kIo, path, "cannot open the directory", errno);
  const int rc = guarded("sync", path, [&] { return ::fsync(fd); });
  const int error = errno;
  ::close(fd);
  if (rc != 0 && error != EINVAL) fail(Exit::kIo, path, "cannot sync the directory", error);
}

void require_free_space(const std::string& directory, std::int64_t bytes) {
  struct statvfs fs {};
  if (guarded("stat", directory, [&] { return ::statvfs(directory.c_str(), &fs); }) != 0)
    fail(Exit::kIo, directory, "cannot ask for free space", errno);
  const double available = static_cast<double>(fs.f_bavail) * static_cast<double>(fs.f_frsize);
  const double needed = 1.05 * static_cast<double>(bytes) + (1 << 20);
  if (available >= needed) return;
  const auto mib = [](double b) { return std::to_string(static_cast<std::int64_t>(b / (1 << 20)) + 1) + " MiB"; };
  throw Error(Exit::kIo, directory + ": expected " + mib(needed) + " of free space, found " + mib(available),
              "free at least " + mib(needed - available) + " or write elsewhere");
}

namespace {
std::string host_name() {
  char name[256] = {};
  if (::gethostname(name, sizeof name - 1) != 0) return "unknown";
  std::string host = name;
  std::replace_if(
      host.begin(), host.end(), [](char c) { return c == '-' || c == '/'; }, '_');
  return host;
}
}  // namespace

std::string unique_suffix() {
  std::random_device random;
  char nonce[17];
  std::snprintf(nonce, sizeof nonce, "%08x%08x", random(), random());
  return host_name() + "-" + std::to_string(::getpid()) + "-" + nonce;
}

bool owner_is_gone(const std::string& name) {
  const std::string mark = "-" + host_name() + "-";
  const std::size_t at = name.find(mark);
  if (at == std::string::npos) return false;
  const long pid = std::strtol(name.c_str() + at + mark.size(), nullptr, 10);
  return pid > 0 && ::kill(static_cast<pid_t>(pid), 0) != 0 && errno == ESRCH;
}

namespace {

[[noreturn]] void refuse_to_overwrite(const std::string& path) {
  throw Error(Exit::kCannotCreate, path + ": expected no such file, found one", "--force overwrites it");
}

// Renames to a path that is not there, in one step where the file system can; else false and nothing has changed.
bool rename_to_new(const std::string& from, const std::string& to) {
  const int rc =
      guarded("rename", from, [&] { return ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE); });
  if (rc == 0) return true;
  if (errno == EINVAL || errno == ENOSYS) return false;
  if (errno == EEXIST) refuse_to_overwrite(to);
  fail(Exit::kIo, from, "cannot rename to " + to, errno);
}

}  // namespace

PendingFile::PendingFile(std::string path, bool force) : path_(std::move(path)), force_(force) {
  if (!force && path_exists(path_)) refuse_to_overwrite(path_);
  if (is_directory(path_)) throw Error(Exit::kCannotCreate, path_ + ": expected a file name, found a directory");
  const std::string directory = parent_directory(path_);
  if (!is_directory(directory))
    throw Error(Exit::kCannotCreate, path_ + ": expected the directory " + directory + ", found none",
                "make it first: mkdir -p " + directory);
  temporary_ = directory + "/.tmp-" + base_name(path_) + "-" + unique_suffix();
}

PendingFile::PendingFile(PendingFile&& other) noexcept
    : path_(std::move(other.path_)), temporary_(std::exchange(other.temporary_, "")), force_(other.force_) {}

PendingFile::~PendingFile() {
  if (!temporary_.empty()) remove_tree(temporary_);
}

// Somebody else may have made the file meanwhile.
void PendingFile::commit() {
  if (force_ || !rename_to_new(temporary_, path_)) rename_path(temporary_, path_);
  temporary_.clear();
  sync_directory(parent_directory(path_));
}

}  // namespace moe
