#include "lib/io/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <random>
#include <utility>

#include "lib/base/error.h"
#include "lib/io/fault.h"

namespace moe {
namespace {

std::string hint_for(int error) {
  if (error == ENOSPC) return "the disk is full: free some space or write elsewhere";
  if (error == EDQUOT) return "the quota is used up: free some space or write elsewhere";
  if (error == EACCES || error == EPERM) return "check the permissions of the file and its directory";
  if (error == EROFS) return "the file system is read-only: write elsewhere";
  return "";
}

[[noreturn]] void fail(Exit code, const std::string& path, const std::string& what, int error) {
  throw Error(code, path + ": " + what + ": " + std::strerror(error), hint_for(error));
}

// rc of a system call, unless a planned fault comes first.
template <class Call>
auto guarded(const char* operation, Call call) -> decltype(call()) {
  if (const int error = planned_fault(operation); error != 0) {
    errno = error;
    return -1;
  }
  return call();
}

}  // namespace

File File::create(const std::string& path) {
  const int fd = guarded("open", [&] { return ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644); });
  if (fd < 0)
    fail(errno == ENOSPC || errno == EIO || errno == EDQUOT ? Exit::kIo : Exit::kCannotCreate, path, "cannot create", errno);
  return File(fd, path);
}

File File::open(const std::string& path, Links links) {
  // O_NONBLOCK: a pipe must be refused below, not waited for.
  const int how = O_RDONLY | O_CLOEXEC | O_NONBLOCK | (links == Links::kRefuse ? O_NOFOLLOW : 0);
  const int fd = guarded("open", [&] { return ::open(path.c_str(), how); });
  if (fd < 0 && errno == ELOOP)
    throw Error(Exit::kBadInput,
                path + ": expected a regular file, found a symbolic link" +
                    (links == Links::kFollow ? " that leads round in circles" : ""),
                "put the file itself there");
  if (fd < 0) fail(errno == ENOENT || errno == ENOTDIR ? Exit::kNoInput : Exit::kIo, path, "cannot open", errno);
  File file(fd, path);
  struct stat st {};
  if (::fstat(fd, &st) != 0) fail(Exit::kIo, path, "cannot stat", errno);
  if (S_ISREG(st.st_mode)) return file;
  throw Error(Exit::kBadInput,
              path + ": expected a regular file, found " + (S_ISDIR(st.st_mode) ? "a directory" : "a device or pipe"));
}

File::File(File&& other) noexcept : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  return *this;
}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

void File::read_at(std::int64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t n = guarded("read", [&] { return ::pread(fd_, out.data(), out.size(), offset); });
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(Exit::kIo, path_, "cannot read at byte " + std::to_string(offset), errno);
    if (n == 0)
      throw Error(Exit::kBadInput,
                  path_ + ": expected more bytes, found the end of the file at byte " + std::to_string(offset),
                  "the file is truncated");
    out = out.subspan(static_cast<std::size_t>(n));
    offset += n;
  }
}

void File::write_at(std::int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = guarded("write", [&] { return ::pwrite(fd_, bytes.data(), bytes.size(), offset); });
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail(Exit::kIo, path_, "cannot write at byte " + std::to_string(offset), n == 0 ? EIO : errno);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
    offset += n;
  }
}

void File::truncate(std::int64_t size) {
  if (guarded("write", [&] { return ::ftruncate(fd_, size); }) != 0) fail(Exit::kIo, path_, "cannot set the size", errno);
}

void File::sync() {
  if (guarded("sync", [&] { return ::fsync(fd_); }) != 0) fail(Exit::kIo, path_, "cannot sync", errno);
}

void File::close() {
  if (fd_ >= 0 && ::close(std::exchange(fd_, -1)) != 0) fail(Exit::kIo, path_, "cannot close", errno);
}

std::int64_t File::size() const {
  struct stat st {};
  if (::fstat(fd_, &st) != 0) fail(Exit::kIo, path_, "cannot stat", errno);
  return st.st_size;
}

bool path_exists(const std::string& path) {
  struct stat st {};
  return ::lstat(path.c_str(), &st) == 0;
}

bool is_directory(const std::string& path) {
  struct stat st {};
  return ::stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
}

std::vector<std::string> list_directory(const std::string& path) {
  DIR* directory = ::opendir(path.c_str());
  if (directory == nullptr) fail(errno == ENOENT ? Exit::kNoInput : Exit::kIo, path, "cannot list", errno);
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(directory)) names.emplace_back(entry->d_name);
  ::closedir(directory);
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

void make_directories(const std::string& path) {
  if (is_directory(path)) return;
  if (const std::string parent = parent_directory(path); parent != path) make_directories(parent);
  const int rc = guarded("mkdir", [&] { return ::mkdir(path.c_str(), 0755); });
  if (rc != 0 && errno != EEXIST)
    fail(errno == ENOSPC || errno == EIO ? Exit::kIo : Exit::kCannotCreate, path, "cannot make the directory", errno);
  if (!is_directory(path)) fail(Exit::kCannotCreate, path, "cannot make the directory", EEXIST);
}

void rename_path(const std::string& from, const std::string& to) {
  const int rc = guarded("rename", [&] { return ::rename(from.c_str(), to.c_str()); });
  if (rc != 0) fail(Exit::kIo, from, "cannot rename to " + to, errno);
}

bool exchange_paths(const std::string& a, const std::string& b) {
  const int rc = guarded("rename", [&] { return ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE); });
  if (rc == 0) return true;
  if (errno == EINVAL || errno == ENOSYS) return false;
  fail(Exit::kIo, a, "cannot exchange with " + b, errno);
}

void remove_file(const std::string& path) {
  if (guarded("remove", [&] { return ::unlink(path.c_str()); }) != 0) fail(Exit::kIo, path, "cannot remove", errno);
}

void remove_tree(const std::string& path) noexcept try {
  if (is_directory(path)) {
    for (const std::string& name : list_directory(path)) remove_tree(path + "/" + name);
    (void)guarded("remove", [&] { return ::rmdir(path.c_str()); });
  } else if (path_exists(path)) {
    (void)guarded("remove", [&] { return ::unlink(path.c_str()); });
  }
} catch (...) {
}

void sync_directory(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail(Exit::kIo, path, "cannot open the directory", errno);
  const int rc = guarded("sync", [&] { return ::fsync(fd); });
  const int error = errno;
  ::close(fd);
  if (rc != 0) fail(Exit::kIo, path, "cannot sync the directory", error);
}

std::string read_text_file(const std::string& path, std::int64_t limit_bytes, Links links) {
  const File file = File::open(path, links);
  const std::int64_t size = file.size();
  if (size > limit_bytes)
    throw Error(Exit::kBadInput,
                path + ": expected at most " + std::to_string(limit_bytes) + " bytes, found " + std::to_string(size));
  std::string text(static_cast<std::size_t>(size), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(text)));
  return text;
}

void write_text_file(const std::string& path, std::string_view text) {
  File file = File::create(path);
  file.write_at(0, std::as_bytes(std::span(text)));
  file.sync();
  file.close();
}

void replace_text_file(const std::string& path, std::string_view text) {
  PendingFile pending(path, true);
  write_text_file(pending.temporary_path(), text);
  pending.commit();
}

void require_free_space(const std::string& directory, std::int64_t bytes) {
  struct statvfs fs {};
  if (::statvfs(directory.c_str(), &fs) != 0) fail(Exit::kIo, directory, "cannot ask for free space", errno);
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

PendingFile::PendingFile(std::string path, bool force) : path_(std::move(path)) {
  if (!force && path_exists(path_))
    throw Error(Exit::kCannotCreate, path_ + ": expected no such file, found one", "--force overwrites it");
  if (is_directory(path_)) throw Error(Exit::kCannotCreate, path_ + ": expected a file name, found a directory");
  const std::string directory = parent_directory(path_);
  if (!is_directory(directory))
    throw Error(Exit::kCannotCreate, path_ + ": expected the directory " + directory + ", found none",
                "make it first: mkdir -p " + directory);
  temporary_ = directory + "/.tmp-" + base_name(path_) + "-" + unique_suffix();
}

PendingFile::PendingFile(PendingFile&& other) noexcept
    : path_(std::move(other.path_)), temporary_(std::exchange(other.temporary_, "")) {}

PendingFile::~PendingFile() {
  if (!temporary_.empty()) remove_tree(temporary_);
}

void PendingFile::commit() {
  rename_path(temporary_, path_);
  temporary_.clear();
  sync_directory(parent_directory(path_));
}

}  // namespace moe
