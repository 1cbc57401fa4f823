"""A minimal reader of Spinwire pools: ctypes over libspinwire, no copy.

    from spinwire import Pool
    with Pool("frames") as pool, pool.adopt(id) as buffer:
        view = buffer.view()          # a read-only NumPy array, or a memoryview where there is no NumPy
        print(buffer.content_type, view.shape, view[0, 0])
        del view                      # the buffer is released here: an array of NumPy that is still around keeps it from that

Finds the library by SPINWIRE_LIBRARY, or as libspinwire.so where the linker looks. The structures are those of spinwire.h.
"""

import ctypes as c
import os
import sys
import weakref

try:
    import numpy
except ImportError:
    numpy = None

_ABI_VERSION = 1
# By sw_dtype: format of struct and memoryview, name in NumPy. NumPy has no bf16, memoryview casts neither f16: raw words.
_DTYPES = [("B", "u1"), ("b", "i1"), ("H", "u2"), ("h", "i2"), ("I", "u4"), ("i", "i4"), ("Q", "u8"), ("q", "i8"),
           ("H", "f2"), ("H", "u2"), ("f", "f4"), ("d", "f8")]


class Description(c.Structure):
    _fields_ = [("dtype", c.c_uint32), ("ndim", c.c_uint32), ("shape", c.c_uint64 * 8), ("strides", c.c_uint64 * 8),
                ("timestamp_ns", c.c_uint64), ("sequence", c.c_uint64), ("content_type", c.c_char * 40),
                ("producer", c.c_char * 40)]


class _Handle(c.Structure):  # sw_pool, sw_buffer
    _fields_ = [("word", c.c_uint64)]


def _load():
    library = c.CDLL(os.environ.get("SPINWIRE_LIBRARY", "libspinwire.so"))
    library.sw_last_error.restype = c.c_char_p
    library.sw_abi_version.restype = c.c_uint32
    handle, to = _Handle, c.POINTER
    for name, arguments in {
        "sw_pool_open": [c.c_char_p, c.c_void_p, to(handle)], "sw_pool_close": [handle],
        "sw_get": [handle, c.c_uint64, to(handle)], "sw_adopt": [handle, c.c_uint64, to(handle)],
        "sw_data": [handle, to(c.c_void_p), to(c.c_size_t)], "sw_release": [handle],
        "sw_description_of": [handle, to(Description)],
    }.items():
        getattr(library, name).argtypes = arguments
    if library.sw_abi_version() != _ABI_VERSION:
        raise ImportError(f"libspinwire has ABI {library.sw_abi_version()}, this module is for {_ABI_VERSION}")
    return library


_library = _load()


class Error(Exception):
    """What libspinwire refused; `status` is a number of sw_status."""

    def __init__(self, status):
        super().__init__(_library.sw_last_error().decode(errors="replace"))
        self.status = status


def _must(status):
    if status != 0:
        raise Error(status)


class Buffer:
    """A buffer in hand, to read. Use it in a `with`, in the thread that took it."""

    def __init__(self, handle):
        self._handle, self._views, self._blocks = handle, [], []
        self.description = Description()
        _must(_library.sw_description_of(handle, c.byref(self.description)))

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        try:
            self.release()
        except BufferError:
            if error is None:  # else the error is what is to be seen; it may be what holds the array
                raise

    @property
    def content_type(self):
        return self.description.content_type.decode(errors="replace")

    def raw(self):
        """All bytes in use, as a read-only memoryview."""
        data, size = c.c_void_p(), c.c_size_t()
        _must(_library.sw_data(self._handle, c.byref(data), c.byref(size)))
        block = (c.c_ubyte * size.value).from_address(data.value)  # lives as long as anything that stands on it
        view = memoryview(block).cast("B").toreadonly()
        self._blocks.append(weakref.ref(block))
        self._views.append(view)
        return view

    def view(self):
        """The tensor: a read-only NumPy array, or a memoryview where there is no NumPy."""
        about, raw = self.description, self.raw()
        letter, name = _DTYPES[about.dtype]
        shape, strides = about.shape[:about.ndim], about.strides[:about.ndim]
        if numpy is not None:
            # By way of asarray, which stays valid when `raw` itself is released.
            return numpy.ndarray(shape, numpy.dtype("<" + name), numpy.asarray(raw), 0, strides)
        size, side_by_side = int(name[1]), []
        for length in reversed(shape):
            side_by_side.insert(0, size)
            size *= max(length, 1)
        if strides != side_by_side:
            raise ValueError("the elements do not lie side by side: NumPy is needed to see them")
        empty = 0 in shape
        view = raw[:0 if empty else size].cast(letter) if empty or not shape else raw[:size].cast(letter, shape)
        self._views.append(view)
        return view

    def release(self):
        """Lets go of the buffer; memoryviews of it raise from then on. BufferError where an array of NumPy still stands on it: the
        buffer stays in hand then, and can be released later."""
        while self._views:
            self._views.pop().release()
        self._blocks = [block for block in self._blocks if block() is not None]
        if self._blocks:
            raise BufferError("an array still stands on the buffer; del it, or keep a copy by numpy.array, before it is released")
        handle, self._handle = self._handle, None
        if handle is not None:
            _must(_library.sw_release(handle))


class Pool:
    """A pool that is there, open in this thread."""

    def __init__(self, name):
        self._handle = _Handle()
        _must(_library.sw_pool_open(name.encode(), None, c.byref(self._handle)))

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        status = _library.sw_pool_close(self._handle)
        if error is None:  # else a buffer may still be in hand: the end of the thread closes the pool
            _must(status)

    def get(self, id):
        """A buffer by its id; the reference by which it is known stays."""
        return self._take(_library.sw_get, id)

    def adopt(self, id):
        """A buffer by its id, in place of the reference that was left for whoever knows it."""
        return self._take(_library.sw_adopt, id)

    def _take(self, take, id):
        handle = _Handle()
        _must(take(self._handle, id, c.byref(handle)))
        try:
            return Buffer(handle)
        except Error:
            _library.sw_release(handle)
            raise


if __name__ == "__main__":
    # spinwire.py POOL ID..: shows what is in these buffers, and releases them.
    with Pool(sys.argv[1]) as pool:
        for id in map(int, sys.argv[2:]):
            with pool.adopt(id) as buffer:
                view = buffer.view()
                kind = "array" if numpy is not None else "memoryview"
                print(f"{kind} {buffer.content_type} #{buffer.description.sequence} {tuple(view.shape)} {view.tolist()}")
                del view
