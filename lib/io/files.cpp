// An open file, and whole text files. Not here: paths (paths.cpp).
#include "lib/io/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "lib/io/guarded.h"

namespace moe {
namespace {

std::string hint_for(int error) {
  if (error == ENOSPC) return "the disk is full: free some space or write elsewhere";
  if (error == EDQUOT) return "the quota is used up: free some space or write elsewhere";
  if (error == EACCES || error == EPERM) return "check the permissions of the file and its directory";
  if (error == EROFS) return "the file system is read-only: write elsewhere";
  if (error == ESTALE) return "the file server no longer knows the file: mount again, then resume";
  if (error == EIO) return "the device failed: moe-reshard verify tells what of a checkpoint is whole";
  return "";
}

}  // namespace

void fail(Exit code, const std::string& path, const std::string& what, int error) {
  throw Error(code, path + ": " + what + ": " + std::strerror(error), hint_for(error));
}

Exit code_of_create(int error) {
  for (const int e : {ENOSPC, EIO, EDQUOT, EROFS, ESTALE})
    if (error == e) return Exit::kIo;
  return Exit::kCannotCreate;
}

File File::create(const std::string& path) {
  const int fd = guarded("open", path, [&] { return ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644); });
  if (fd < 0) fail(code_of_create(errno), path, "cannot create", errno);
  return File(fd, path);
}

File File::open(const std::string& path, Links links) {
  return open_as(path, O_RDONLY | (links == Links::kRefuse ? O_NOFOLLOW : 0));
}
File File::edit(const std::string& path) { return open_as(path, O_RDWR); }

File File::open_as(const std::string& path, int access) {
  // O_NONBLOCK: a pipe must be refused below, not waited for.
  const int fd = guarded("open", path, [&] { return ::open(path.c_str(), access | O_CLOEXEC | O_NONBLOCK); });
  if (fd < 0 && errno == ELOOP)
    throw Error(Exit::kBadInput,
                path + ": expected a regular file, found a symbolic link" +
                    ((access & O_NOFOLLOW) == 0 ? " that leads round in circles" : ""),
                "put the file itself there");
  if (fd < 0) fail(errno == ENOENT || errno == ENOTDIR ? Exit::kNoInput : Exit::kIo, path, "cannot open", errno);
  File file(fd, path);
  struct stat st {};
  if (guarded("stat", path, [&] { return ::fstat(fd, &st); }) != 0) fail(Exit::kIo, path, "cannot stat", errno);
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
    const ssize_t n = guarded("read", path_, [&] { return ::pread(fd_, out.data(), out.size(), offset); });
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
    const auto write = [&](std::size_t size) { return ::pwrite(fd_, bytes.data(), size, offset); };
    const ssize_t n = guarded(
        "write", path_, [&] { return write(bytes.size()); }, [&] { static_cast<void>(write(bytes.size() / 2)); });
    if (n <= 0) fail(Exit::kIo, path_, "cannot write at byte " + std::to_string(offset), n == 0 ? EIO : errno);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
    offset += n;
  }
}

void File::truncate(std::int64_t size) {
  if (guarded("write", path_, [&] { return ::ftruncate(fd_, size); }) != 0)
    fail(Exit::kIo, path_, "cannot set the size", errno);
}

void File::start_writing(std::int64_t offset, std::int64_t bytes) noexcept {
  static_cast<void>(::sync_file_range(fd_, offset, bytes, SYNC_FILE_RANGE_WRITE));
}

// Not tried again when it fails: the pages that could not be written may count as clean then.
void File::sync() const {
  if (guarded("sync", path_, [&] { return ::fsync(fd_); }) != 0) fail(Exit::kIo, path_, "cannot sync", errno);
}

// The descriptor is gone whatever close says.
void File::close() {
  if (fd_ < 0) return;
  const Fault fault = planned_fault("close", path_);
  const int rc = ::close(std::exchange(fd_, -1)), error = fault.error != 0 ? fault.error : errno;
  if ((rc != 0 || fault.error != 0) && error != EINTR) fail(Exit::kIo, path_, "cannot close", error);
}

std::int64_t File::size() const {
  struct stat st {};
  if (guarded("stat", path_, [&] { return ::fstat(fd_, &st); }) != 0) fail(Exit::kIo, path_, "cannot stat", errno);
  return st.st_size;
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

}  // namespace moe
