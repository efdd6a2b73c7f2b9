// Looks at an object header of an HDF5 file before libhdf5 does: every message lies inside of its header, none is shared,
// fill values are not larger than their message, storage is contiguous. Version 1.10 believes what these say and reads
// beyond its buffers. Format: HDF5 File Format Specification 3.0, IV.A.1.b. Not here: checksums and all else, which libhdf5
// checks well.
#pragma once

#include <cstdint>
#include <string>

#include "lib/io/files.h"

namespace moe {

// "" or what is wrong with the header at `address`.
std::string h5_header_fault(const File& file, std::uint64_t address);

}  // namespace moe
