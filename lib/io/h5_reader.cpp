// Reading HDF5 files by the strict profile of h5.h. Not here: writing (h5_writer.cpp).
#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <string_view>
#include <utility>

#include "lib/io/h5_header.h"
#include "lib/io/h5_parts.h"

namespace moe {

using namespace h5;

struct H5Reader::Impl {
  Channel channel;
  hid_t file = -1;

  ~Impl() {
    if (file >= 0) H5Fclose(file);
  }
  // What the file is not; but if the file layer failed, that is the reason.
  [[noreturn]] void refuse(const std::string& what, const std::string& hint = "") {
    if (channel.failure) throw *std::exchange(channel.failure, std::nullopt);
    throw Error(Exit::kBadInput, channel.file.path() + ": " + what, hint);
  }
  template <class Rc>
  Rc ok(Rc rc, const std::string& what) {
    // A failure of one read must not stick to the next.
    struct Forget {
      Channel& c;
      ~Forget() { c.failure.reset(); }
    } forget{channel};
    return check(rc, channel, Exit::kBadInput, what);
  }
  void check_superblock();
  void check_header(const std::string& what, std::uint64_t address);
  void check_link(const std::string& name);
  hid_t open_dataset(const std::string& name);
  H5Dataset describe(hid_t dataset, const std::string& name);
  hid_t open_attribute(const std::string& name, const std::string& owner);
};

// Signature, version 2 or 3, and the end of the file where the superblock says it is, before HDF5 sees a byte.
void H5Reader::Impl::check_superblock() {
  std::array<std::byte, 48> head{};
  const std::int64_t size = channel.file.size();
  if (size < static_cast<std::int64_t>(head.size()))
    refuse("expected an HDF5 file, found " + std::to_string(size) + " bytes");
  channel.file.read_at(0, head);
  if (std::memcmp(head.data(), "\x89HDF\r\n\x1a\n", 8) != 0) refuse("expected an HDF5 file, found another signature");
  const int version = std::to_integer<int>(head[8]);
  if (version < 2 || version > 3) refuse("expected HDF5 superblock version 2 or 3, found " + std::to_string(version));
  if (head[9] != std::byte{8} || head[10] != std::byte{8}) refuse("expected 8-byte HDF5 addresses");
  std::uint64_t base = 0, extension = 0, end = 0;
  std::memcpy(&base, &head[12], 8);
  std::memcpy(&extension, &head[20], 8);
  std::memcpy(&end, &head[28], 8);
  if (base != 0) refuse("expected HDF5 data from byte 0, found byte " + std::to_string(base));
  // There a file may name its driver, a cache image and other things that no file of ours has.
  if (extension != HADDR_UNDEF) refuse("expected no HDF5 superblock extension, found one");
  if (end != static_cast<std::uint64_t>(size))
    refuse("expected " + std::to_string(end) + " bytes, found " + std::to_string(size),
           "the file is truncated or has been appended to");
  channel.end_of_file = static_cast<haddr_t>(size);
  std::uint64_t root = 0;
  std::memcpy(&root, &head[36], 8);
  check_header("root group", root);
}

H5Reader::H5Reader(const std::string& path, const std::string& kind, int newest_version, Links links)
    : impl_(new Impl{{File::open(path, links), {}, 0}, -1}) {
  const auto busy = enter();
  impl_->channel.is_read_only = true;
  impl_->check_superblock();
  const Id access(h5_access_list(impl_->channel), H5Pclose);
  impl_->file = impl_->ok(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access), "damaged");
  if (const std::string found = attribute_text("kind"); !kind.empty() && found != kind)
    impl_->refuse("expected a file of kind '" + kind + "', found '" + found + "'");
  if (const std::int64_t found = attribute_int("format_version"); found < 1 || found > newest_version)
    impl_->refuse("expected format version 1 to " + std::to_string(newest_version) + ", found " + std::to_string(found),
                  "a newer version of the tools wrote it");
  if (H5Aexists(impl_->file, "complete") <= 0 || attribute_int("complete") != 1)
    impl_->refuse("expected a complete file, found one whose writing did not end");
}
H5Reader::H5Reader(H5Reader&&) noexcept = default;
H5Reader::~H5Reader() {
  const auto busy = enter();
  impl_.reset();
}

void H5Reader::Impl::check_header(const std::string& what, std::uint64_t address) {
  if (const std::string fault = h5_header_fault(channel.file, address); !fault.empty()) refuse(what + ": " + fault);
}

// A name of the root group that leads to an object of this file, not through a soft or external link.
void H5Reader::Impl::check_link(const std::string& name) {
  if (!flat_name(name)) refuse("'" + name + "' is no name of a dataset");
  if (H5Lexists(file, name.c_str(), H5P_DEFAULT) <= 0) refuse("expected a dataset '" + name + "', found none");
  H5L_info_t link{};
  ok(H5Lget_info(file, name.c_str(), &link, H5P_DEFAULT), "damaged link " + name);
  if (link.type != H5L_TYPE_HARD) refuse("expected a dataset '" + name + "', found a link to elsewhere");
  check_header("dataset " + name, link.u.address);
}

hid_t H5Reader::Impl::open_dataset(const std::string& name) {
  check_link(name);
  return ok(H5Dopen2(file, name.c_str(), H5P_DEFAULT), "damaged dataset " + name);
}

// Refuses whatever is not a plain contiguous array of this file.
H5Dataset H5Reader::Impl::describe(hid_t dataset, const std::string& name) {
  const Id list(ok(H5Dget_create_plist(dataset), "damaged dataset " + name), H5Pclose);
  if (H5Pget_layout(list) != H5D_CONTIGUOUS || H5Pget_external_count(list) != 0 || H5Pget_nfilters(list) != 0)
    refuse("dataset " + name + ": expected contiguous storage in this file without filters");
  H5Dataset d;
  const Id type(ok(H5Dget_type(dataset), "damaged dataset " + name), H5Tclose);
  const auto table = type_table();
  const auto row = std::find_if(table.begin(), table.end(), [&](const TypeRow& r) { return H5Tequal(type, r.file) > 0; });
  if (row == table.end()) refuse("dataset " + name + ": expected a little-endian integer or float type, found another");
  d.type = row->type;
  const Id space(ok(H5Dget_space(dataset), "damaged dataset " + name), H5Sclose);
  const int rank = H5Sget_simple_extent_ndims(space);
  if (rank < 1 || rank > 8) refuse("dataset " + name + ": expected 1 to 8 dimensions, found " + std::to_string(rank));
  std::vector<hsize_t> dims(static_cast<std::size_t>(rank));
  ok(H5Sget_simple_extent_dims(space, dims.data(), nullptr), "damaged dataset " + name);
  unsigned __int128 bytes = row->size;
  for (const hsize_t n : dims) {
    if (n > (hsize_t{1} << 48)) refuse("dataset " + name + ": impossible size");
    bytes *= n;
    if (bytes > (static_cast<unsigned __int128>(1) << 60)) refuse("dataset " + name + ": impossible size");
  }
  d.dims.assign(dims.begin(), dims.end());
  if (bytes == 0) return d;
  const haddr_t offset = H5Dget_offset(dataset);
  if (offset == HADDR_UNDEF || H5Dget_storage_size(dataset) != bytes || bytes + offset > channel.end_of_file)
    refuse("dataset " + name + ": its data lie outside of the file");
  d.file_offset = static_cast<std::int64_t>(offset);
  return d;
}

bool H5Reader::has(const std::string& name) const {
  const auto busy = enter();
  return flat_name(name) && impl_->ok(H5Lexists(impl_->file, name.c_str(), H5P_DEFAULT), "damaged link " + name) > 0;
}

H5Dataset H5Reader::dataset(const std::string& name) const {
  const auto busy = enter();
  const Id dataset(impl_->open_dataset(name), H5Dclose);
  return impl_->describe(dataset, name);
}

void H5Reader::read(const std::string& name, H5Type type, const std::vector<std::int64_t>& dims, void* out) const {
  const H5Dataset d = dataset(name);
  const auto text = [](const std::vector<std::int64_t>& v) {
    std::string s = "[";
    for (std::size_t i = 0; i < v.size(); ++i) s += (i ? "," : "") + std::to_string(v[i]);
    return s + "]";
  };
  if (d.dims != dims) impl_->refuse("dataset " + name + ": expected shape " + text(dims) + ", found " + text(d.dims));
  if (d.type != type) impl_->refuse("dataset " + name + ": expected another element type");
  read_rows(name, 0, dims.at(0), out);
}

void H5Reader::read_rows(const std::string& name, std::int64_t begin, std::int64_t count, void* out) const {
  const auto [offset, bytes] = range_of_rows(impl_->channel, dataset(name), begin, count);
  if (bytes > 0) impl_->channel.file.read_at(offset, {static_cast<std::byte*>(out), bytes});
}

void H5Reader::read_bytes(const H5Dataset& d, std::int64_t first_byte, std::span<std::byte> out) const {
  if (d.file_offset < 0 || first_byte < 0 || first_byte + static_cast<std::int64_t>(out.size()) > d.bytes())
    throw Error(Exit::kInternal, impl_->channel.file.path() + ": bytes outside of their dataset");
  impl_->channel.file.read_at(d.file_offset + first_byte, out);
}

std::string H5Reader::read_text(const std::string& name, std::int64_t limit_bytes) const {
  const H5Dataset d = dataset(name);
  if (d.type != H5Type::kU8 || d.dims.size() != 1 || d.dims[0] > limit_bytes)
    impl_->refuse("dataset " + name + ": expected at most " + std::to_string(limit_bytes) + " bytes of text");
  std::string text(static_cast<std::size_t>(d.dims[0]), '\0');
  read_rows(name, 0, d.dims[0], text.data());
  return text;
}

hid_t H5Reader::Impl::open_attribute(const std::string& name, const std::string& owner) {
  if (!owner.empty()) check_link(owner);
  const std::string path = owner.empty() ? "." : owner;
  if (H5Aexists_by_name(file, path.c_str(), name.c_str(), H5P_DEFAULT) <= 0)
    refuse("expected an attribute '" + name + "', found none", "not a file of these tools, or damaged");
  return ok(H5Aopen_by_name(file, path.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT), "damaged attribute " + name);
}

bool H5Reader::has_attribute(const std::string& name) const {
  const auto busy = enter();
  return impl_->ok(H5Aexists(impl_->file, name.c_str()), "damaged attributes") > 0;
}

std::string H5Reader::attribute_text(const std::string& name, const std::string& owner) const {
  const auto busy = enter();
  const Id attr(impl_->open_attribute(name, owner), H5Aclose);
  const Id type(impl_->ok(H5Aget_type(attr), "damaged attribute " + name), H5Tclose);
  const Id space(impl_->ok(H5Aget_space(attr), "damaged attribute " + name), H5Sclose);
  const std::size_t size = H5Tget_size(type);
  if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0 || size > 4096 ||
      H5Sget_simple_extent_npoints(space) != 1)
    impl_->refuse("attribute " + name + ": expected a fixed-length text of at most 4096 bytes");
  std::string text(size, '\0');
  impl_->ok(H5Aread(attr, type, text.data()), "damaged attribute " + name);
  return text.substr(0, text.find('\0'));
}

std::int64_t H5Reader::attribute_int(const std::string& name, const std::string& owner) const {
  const auto busy = enter();
  const Id attr(impl_->open_attribute(name, owner), H5Aclose);
  const Id type(impl_->ok(H5Aget_type(attr), "damaged attribute " + name), H5Tclose);
  const Id space(impl_->ok(H5Aget_space(attr), "damaged attribute " + name), H5Sclose);
  if (H5Tequal(type, H5T_STD_I64LE) <= 0 || H5Sget_simple_extent_npoints(space) != 1)
    impl_->refuse("attribute " + name + ": expected one 64-bit integer");
  std::int64_t value = 0;
  impl_->ok(H5Aread(attr, H5T_NATIVE_INT64, &value), "damaged attribute " + name);
  return value;
}

std::int64_t H5Reader::file_bytes() const { return static_cast<std::int64_t>(impl_->channel.end_of_file); }

std::string h5_kind(const std::string& path) {
  if (!has_h5_signature(path)) return "";
  return H5Reader(path, "", std::numeric_limits<int>::max()).attribute_text("kind");
}

}  // namespace moe
