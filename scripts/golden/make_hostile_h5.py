#!/usr/bin/python3
"""Makes tests/golden/hostile/*.h5: files that are HDF5 and carry the attributes of ours, but whose dataset "d" is not a plain
array of the file itself. tests/hostile_h5_test.cpp reads them. Needs h5py (Debian: python3-h5py); run from the source tree.
The files that links and external storage lead to are secret.h5 and secret.bin beside them, which exist: a reader that follows
would find something."""
import os
import h5py
import numpy as np

OUT = "tests/golden/hostile"
os.makedirs(OUT, exist_ok=True)
os.chdir(OUT)


def new(name, libver=("v108", "v110"), kind=np.bytes_("test")):
    f = h5py.File(name + ".h5", "w", libver=libver)
    f.attrs["kind"] = kind
    f.attrs["format_version"] = np.int64(1)
    f.attrs["complete"] = np.int64(1)
    return f


def dataset(f, dcpl, dims=(16,), dtype=h5py.h5t.IEEE_F32LE):
    return h5py.h5d.create(f.id, b"d", dtype, h5py.h5s.create_simple(dims), dcpl)


def plist():
    return h5py.h5p.create(h5py.h5p.DATASET_CREATE)


values = np.arange(16, dtype="<f4")
values.tofile("secret.bin")
with new("secret") as f:
    f["d"] = values
with new("plain") as f:
    f["d"] = values
with new("external_link") as f:
    f["d"] = h5py.ExternalLink("secret.h5", "/d")
with new("soft_link") as f:
    f["e"] = values
    f["d"] = h5py.SoftLink("/e")
with new("soft_loop") as f:
    f["d"] = h5py.SoftLink("/e")
    f["e"] = h5py.SoftLink("/d")
with new("external_storage") as f:
    p = plist()
    p.set_external(b"secret.bin", 0, 64)
    dataset(f, p)
with new("virtual") as f:
    layout = h5py.VirtualLayout(shape=(16,), dtype="<f4")
    layout[:] = h5py.VirtualSource("secret.h5", "d", shape=(16,))
    f.create_virtual_dataset("d", layout)
with new("virtual_unlimited") as f:
    layout = h5py.VirtualLayout(shape=(16,), dtype="<f4", maxshape=(None,))
    source = h5py.VirtualSource("secret.h5", "d", shape=(16,), maxshape=(None,))
    layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
    f.create_virtual_dataset("d", layout)
with new("chunked") as f:
    f.create_dataset("d", data=values, chunks=(4,))
with new("deflate") as f:
    f.create_dataset("d", data=np.zeros(1 << 20, "<f4"), chunks=(1 << 20,), compression="gzip")
with new("unknown_filter") as f:
    p = plist()
    p.set_chunk((16,))
    p.set_filter(32008, h5py.h5z.FLAG_OPTIONAL, (1, 2))
    dataset(f, p)
with new("vlen") as f:
    f.create_dataset("d", (4,), dtype=h5py.vlen_dtype(np.int32))
with new("compound") as f:
    f["d"] = np.zeros(4, dtype=[("a", "<i4"), ("b", "<f8")])
with new("big_endian") as f:
    f["d"] = values.astype(">f4")
with new("reference") as f:
    f.create_dataset("d", data=np.array([f.ref], dtype=h5py.ref_dtype))
with new("scalar") as f:
    f["d"] = np.float32(1)
with new("group") as f:
    f.create_group("d")
with new("huge") as f:  # 2^46 elements that were never allocated
    dataset(f, plist(), (1 << 23, 1 << 23))
with new("not_allocated") as f:
    dataset(f, plist())
with new("compact") as f:
    p = plist()
    p.set_layout(h5py.h5d.COMPACT)
    dataset(f, p)
with new("old_superblock", ("earliest", "v108")) as f:
    f["d"] = values
with new("vlen_attribute", kind="test") as f:
    f["d"] = values
with new("long_attribute", kind=np.bytes_("test" + "x" * 5000)) as f:
    f["d"] = values
with h5py.File("extension.h5", "w", libver=("v108", "v110"), fs_strategy="page", fs_page_size=4096) as f:
    f.attrs["kind"] = np.bytes_("test")
    f.attrs["format_version"] = np.int64(1)
    f.attrs["complete"] = np.int64(1)
    f["d"] = values
