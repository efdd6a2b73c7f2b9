#include "lib/io/h5.h"

#include <hdf5.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <functional>
#include <mutex>
#include <numeric>
#include <string_view>
#include <utility>

#include "lib/base/error.h"
#include "lib/io/files.h"
#include "lib/io/h5_driver.h"
#include "lib/io/h5_header.h"

namespace moe {
namespace {

// ---- identifiers and errors

// The first (innermost) line of HDF5's error stack.
std::string error_stack_line() {
  std::string line;
  const auto take = [](unsigned n, const H5E_error2_t* e, void* out) -> herr_t {
    if (n == 0 && e->desc != nullptr) *static_cast<std::string*>(out) = e->desc;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take, &line);
  H5Eclear2(H5E_DEFAULT);
  return line;
}

// rc, or an Error: the failure of the file layer if there was one, else HDF5's own words with `code`.
template <class Rc>
Rc check(Rc rc, const Channel& channel, Exit code, const std::string& what) {
  if (rc >= 0 && !channel.failure) return rc;
  const std::string words = error_stack_line();
  if (channel.failure) throw *channel.failure;
  throw Error(code, channel.file.path() + ": " + what + (words.empty() ? "" : ": HDF5 says '" + words + "'"));
}

// An HDF5 identifier and the function that closes it.
class Id {
 public:
  Id(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  Id(const Id&) = delete;
  Id& operator=(const Id&) = delete;
  ~Id() {
    if (id_ >= 0) close_(id_);
  }
  operator hid_t() const { return id_; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

// Entering HDF5: one thread at a time in the whole process, since the library need not be built for threads (a save is
// written while the training thread reads its tokens). Held for metadata only: the bytes of datasets pass outside of it.
// Error printing is a setting of each thread. The library must not clean up at exit: a file that could not be closed (full
// disk) would be written again, through a channel that is gone.
[[nodiscard]] std::unique_lock<std::recursive_mutex> enter() {
  static std::recursive_mutex mutex;
  std::unique_lock<std::recursive_mutex> lock(mutex);
  static const herr_t before_all_else = H5dont_atexit();
  static_cast<void>(before_all_else);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  return lock;
}

struct TypeRow {
  H5Type type;
  std::size_t size;
  hid_t file, memory;
};
// H5T_* are run-time values, so the table is made by a call.
std::array<TypeRow, 6> type_table() {
  return {{{H5Type::kU8, 1, H5T_STD_U8LE, H5T_NATIVE_UINT8},
           {H5Type::kU16, 2, H5T_STD_U16LE, H5T_NATIVE_UINT16},
           {H5Type::kU32, 4, H5T_STD_U32LE, H5T_NATIVE_UINT32},
           {H5Type::kU64, 8, H5T_STD_U64LE, H5T_NATIVE_UINT64},
           {H5Type::kI64, 8, H5T_STD_I64LE, H5T_NATIVE_INT64},
           {H5Type::kF32, 4, H5T_IEEE_F32LE, H5T_NATIVE_FLOAT}}};
}
TypeRow row_of(H5Type type) { return type_table()[static_cast<std::size_t>(type)]; }

std::vector<hsize_t> extents(const std::vector<std::int64_t>& dims) { return {dims.begin(), dims.end()}; }

bool flat_name(const std::string& name) {
  const auto bad = [](char c) { return c <= ' ' || c > '~' || c == '/'; };
  return !name.empty() && name.size() <= 600 && name != "." && name != ".." && std::none_of(name.begin(), name.end(), bad);
}

// Bytes of rows [begin, begin + count) of dimension 0 in the file. They are read and written as they are (contiguous,
// little-endian like every machine this is built for), past HDF5: in large pieces, and by several threads at once.
struct ByteRange {
  std::int64_t offset = 0;
  std::size_t bytes = 0;
};
ByteRange range_of_rows(const Channel& c, const H5Dataset& d, std::int64_t begin, std::int64_t count) {
  static_assert(std::endian::native == std::endian::little);
  if (d.dims.empty() || begin < 0 || count < 0 || begin + count > d.dims[0])
    throw Error(Exit::kInternal,
                c.file.path() + ": rows " + std::to_string(begin) + " + " + std::to_string(count) + " lie outside");
  if (count == 0 || d.elements() == 0) return {};
  const std::int64_t row_bytes = d.bytes() / d.dims[0];
  return {d.file_offset + begin * row_bytes, static_cast<std::size_t>(count * row_bytes)};
}

}  // namespace

std::size_t size_of(H5Type type) { return row_of(type).size; }

std::int64_t H5Dataset::elements() const {
  std::int64_t n = 1;
  for (const std::int64_t d : dims) n *= d;
  return n;
}

// ---- writing

struct H5Writer::Impl {
  Channel channel;
  hid_t file = -1;
  std::vector<std::pair<std::string, H5Dataset>> datasets;

  ~Impl() {
    if (file >= 0) H5Fclose(file);
  }
  template <class Rc>
  Rc ok(Rc rc, const std::string& what) const {
    return check(rc, channel, Exit::kIo, what);
  }
  const H5Dataset& known(const std::string& name) const {
    for (const auto& [n, d] : datasets)
      if (n == name) return d;
    throw Error(Exit::kInternal, channel.file.path() + ": no dataset '" + name + "' was created");
  }
  hid_t open_owner(const std::string& owner) const {
    return ok(H5Oopen(file, owner.empty() ? "/" : owner.c_str(), H5P_DEFAULT), "cannot open '" + owner + "'");
  }
  void attribute(const std::string& name, const std::string& owner, hid_t file_type, hid_t memory_type,
                 const void* value) const {
    const Id object(open_owner(owner), H5Oclose);
    const Id space(ok(H5Screate(H5S_SCALAR), "no dataspace"), H5Sclose);
    const Id attr(
        ok(H5Acreate2(object, name.c_str(), file_type, space, H5P_DEFAULT, H5P_DEFAULT), "cannot add attribute " + name),
        H5Aclose);
    ok(H5Awrite(attr, memory_type, value), "cannot write attribute " + name);
  }
};

H5Writer::H5Writer(const std::string& path, const std::string& kind, int format_version)
    : impl_(new Impl{{File::create(path), {}, 0}, -1, {}}) {
  const auto busy = enter();
  const Id access(h5_access_list(impl_->channel), H5Pclose);
  impl_->file = impl_->ok(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access), "cannot create");
  attribute("kind", kind);
  attribute("format_version", format_version);
}
H5Writer::~H5Writer() {
  const auto busy = enter();
  if (impl_ && impl_->file >= 0 && !impl_->channel.failure)
    impl_->channel.failure = Error(Exit::kInternal, "abandoned");  // nothing more is written
  impl_.reset();
}

H5Dataset H5Writer::create(const std::string& name, H5Type type, const std::vector<std::int64_t>& dims) {
  const auto busy = enter();
  if (!flat_name(name))
    throw Error(Exit::kInternal, impl_->channel.file.path() + ": '" + name + "' is no name of a dataset");
  const std::vector<hsize_t> size = extents(dims);
  const Id space(impl_->ok(H5Screate_simple(static_cast<int>(size.size()), size.data(), nullptr), "no dataspace"), H5Sclose);
  const Id layout(impl_->ok(H5Pcreate(H5P_DATASET_CREATE), "no property list"), H5Pclose);
  impl_->ok(H5Pset_layout(layout, H5D_CONTIGUOUS), "cannot set the layout");
  impl_->ok(H5Pset_alloc_time(layout, H5D_ALLOC_TIME_EARLY), "cannot set the allocation time");
  impl_->ok(H5Pset_fill_time(layout, H5D_FILL_TIME_NEVER), "cannot set the fill time");
  impl_->ok(H5Pset_obj_track_times(layout, false), "cannot set time tracking");
  const Id dataset(
      impl_->ok(H5Dcreate2(impl_->file, name.c_str(), row_of(type).file, space, H5P_DEFAULT, layout, H5P_DEFAULT),
                "cannot create dataset " + name),
      H5Dclose);
  H5Dataset made{type, dims};
  if (made.elements() > 0) {
    const haddr_t offset = H5Dget_offset(dataset);
    if (offset == HADDR_UNDEF) impl_->ok(-1, "no place for dataset " + name);
    made.file_offset = static_cast<std::int64_t>(offset);
    const auto end = static_cast<std::uint64_t>(made.file_offset + made.bytes());
    impl_->channel.end_of_file = std::max(impl_->channel.end_of_file, end);  // a hole until the bytes come
  }
  impl_->datasets.emplace_back(name, made);
  return made;
}

void H5Writer::write_bytes(const H5Dataset& d, std::int64_t first_byte, std::span<const std::byte> bytes) {
  const auto count = static_cast<std::int64_t>(bytes.size());
  if (d.file_offset < 0 || first_byte < 0 || first_byte + count > d.bytes())
    throw Error(Exit::kInternal, impl_->channel.file.path() + ": bytes outside of their dataset");
  impl_->channel.file.write_at(d.file_offset + first_byte, bytes);
  impl_->channel.file.start_writing(d.file_offset + first_byte, count);
}

void H5Writer::sync() { impl_->channel.file.sync(); }

void H5Writer::write_rows(const std::string& name, std::int64_t begin, std::int64_t count, const void* data) {
  Channel& c = impl_->channel;
  const auto [offset, bytes] = range_of_rows(c, impl_->known(name), begin, count);
  if (c.failure) throw *c.failure;
  if (bytes == 0) return;
  try {
    c.file.write_at(offset, {static_cast<const std::byte*>(data), bytes});
  } catch (const Error& e) {
    c.failure = e;
    throw;
  }
}

void H5Writer::write(const std::string& name, H5Type type, const std::vector<std::int64_t>& dims, const void* data) {
  create(name, type, dims);
  write_rows(name, 0, dims.at(0), data);
}

void H5Writer::write_text(const std::string& name, const std::string& text) {
  write(name, H5Type::kU8, {static_cast<std::int64_t>(text.size())}, text.data());
}

void H5Writer::attribute(const std::string& name, const std::string& value, const std::string& owner) {
  const auto busy = enter();
  if (value.size() > 4096)
    throw Error(Exit::kInternal, impl_->channel.file.path() + ": attribute " + name + " is over 4096 bytes");
  const Id type(impl_->ok(H5Tcopy(H5T_C_S1), "no type"), H5Tclose);
  impl_->ok(H5Tset_size(type, std::max<std::size_t>(value.size(), 1)), "no type");
  impl_->ok(H5Tset_strpad(type, H5T_STR_NULLPAD), "no type");
  impl_->ok(H5Tset_cset(type, H5T_CSET_UTF8), "no type");
  impl_->attribute(name, owner, type, type, value.c_str());
}

void H5Writer::attribute(const std::string& name, std::int64_t value, const std::string& owner) {
  const auto busy = enter();
  impl_->attribute(name, owner, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

// The mark follows a sync of everything else: a file that has it has the rest.
void H5Writer::finish() {
  const auto busy = enter();
  impl_->ok(H5Fflush(impl_->file, H5F_SCOPE_GLOBAL), "cannot flush");
  impl_->channel.file.sync();
  attribute("complete", 1);
  impl_->ok(H5Fclose(std::exchange(impl_->file, -1)), "cannot close");
  impl_->channel.file.sync();
  impl_->channel.file.close();
}

// ---- reading

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
  if (const std::string found = attribute_text("kind"); found != kind)
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

bool has_h5_signature(const std::string& path) {
  const File file = File::open(path);
  std::array<std::byte, 8> head{};
  file.read_at(0, std::span(head).first(static_cast<std::size_t>(std::min<std::int64_t>(file.size(), 8))));
  const std::string_view found(reinterpret_cast<const char*>(head.data()), head.size()), want("\x89HDF\r\n\x1a\n");
  const auto same = std::inner_product(found.begin(), found.end(), want.begin(), 0, std::plus<>(), std::equal_to<>());
  if (same >= 4 && found != want)
    throw Error(Exit::kBadInput, path + ": expected the signature of an HDF5 file, found a damaged one");
  return found == want;
}

}  // namespace moe
