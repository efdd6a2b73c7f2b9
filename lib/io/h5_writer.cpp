// Writing HDF5 files. Not here: reading (h5_reader.cpp).
#include <algorithm>
#include <utility>

#include "lib/io/h5_parts.h"

namespace moe {

using namespace h5;

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

}  // namespace moe
