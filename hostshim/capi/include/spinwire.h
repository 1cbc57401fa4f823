/* Generated; change the comments and types in hostshim/capi/src, then: BLESS=1 cargo test -p spinwire-capi --test header
 *
 * libspinwire: pools of buffers that processes share, hand over by a 64-bit id, and lose none of when one of them is killed.
 * It needs C11 or C++11, Linux, 64 bits, little-endian. Link with -lspinwire.
 *
 *   sw_pool pool;  sw_buffer buffer;  void *to;  uint64_t id;
 *   if (sw_pool_open("frames", NULL, &pool) != SW_OK) { fputs(sw_last_error(), stderr); exit(1); }
 *   sw_acquire(pool, 4096, 0, &buffer);         a free buffer, for this thread alone, to write
 *   sw_data_mut(buffer, &to, NULL);
 *   fill(to);
 *   sw_detach(buffer, &id);                     tell the id to anybody, by any way; it takes the buffer by sw_adopt()
 *   sw_pool_close(pool);
 *
 * Rules for all functions:
 *  - The answer is a sw_status: 0, or why nothing was done. Out parameters are written on SW_OK only.
 *  - Pointers point to what their type says, readable, and writable unless const, until the function returns; strings end with
 *    a zero. Null, and pointers that are not aligned, are SW_ARGUMENT where the comment does not allow them; others that point
 *    nowhere cannot be told, as anywhere in C.
 *  - Handles are words, no pointers. Those that are used twice after their end, belong to another thread or to the parent of a
 *    fork(), or never were any, are told: SW_HANDLE, SW_THREAD, SW_FORKED. (The handle in one place of the tables comes round
 *    after 2^28 - 1 uses of that place, the number of a thread after 65,535 others.) The memory that sw_data() gave is a pointer,
 *    and touching it after the end of its handle is not told.
 *  - A handle belongs to the thread that got it. Ids and names are for everybody.
 *  - Not for signal handlers; and no signal ends a wait. The library's thread takes none.
 */

#ifndef SPINWIRE_H
#define SPINWIRE_H

#include <stddef.h>
#include <stdint.h>

// Most dimensions of a tensor.
#define SW_NDIM_MAX 8

// Most bytes of a label, without the zero at its end.
#define SW_LABEL_MAX 32

// Rises where a program must be compiled anew: compare with sw_abi_version().
#define SW_ABI_VERSION 1

// What every function but the texts returns: 0, or why it did nothing.
typedef enum sw_status {
    // Done.
    SW_OK = 0,
    // All buffers of that size are in use. Try again, or wait.
    SW_FULL = 1,
    // The buffer is in use in a way that excludes this one: somebody writes it, or, to write it, somebody has it. Try again.
    SW_BUSY = 2,
    // The buffer of that id was freed; its memory may hold another one by now.
    SW_STALE = 3,
    // The id is of no buffer of this pool.
    SW_FOREIGN = 4,
    // No detached reference is left.
    SW_NO_REFERENCE = 5,
    // A buffer has at most 31 detached references.
    SW_TOO_MANY_REFERENCES = 6,
    // No buffer of the pool is that large.
    SW_TOO_LARGE = 7,
    // The buffer has a segment of its own, which could not be mapped: sw_last_error() says why.
    SW_NOT_MAPPED = 8,
    // The buffer was taken for reading.
    SW_READ_ONLY = 9,
    // The bytes are not in main memory, or of another type.
    SW_TYPE = 10,
    // More bytes than the buffer has.
    SW_OUT_OF_RANGE = 11,
    // Shape and strides do not lie in the buffer, or overflow.
    SW_SHAPE = 12,
    // The writer left no description.
    SW_NOT_DESCRIBED = 13,
    // This handle of the pool was taken for dead and its buffers were given away: close it, and open the pool again.
    SW_FENCED = 14,
    // Somebody wrote nonsense into the pool.
    SW_CORRUPT = 15,
    // An argument cannot be right: sw_last_error() names it.
    SW_ARGUMENT = 16,
    // No such handle: it was released, detached or closed before, or never was one.
    SW_HANDLE = 17,
    // The handle belongs to another thread.
    SW_THREAD = 18,
    // This process is the child of a fork(): the handles are its parent's.
    SW_FORKED = 19,
    // The pool has buffers in hand: release or detach them first.
    SW_IN_USE = 20,
    // A segment of that name exists.
    SW_EXISTS = 21,
    // No pool of that name exists.
    SW_MISSING = 22,
    // What has that name cannot be used: sw_last_error() says which field is wrong.
    SW_UNUSABLE = 23,
    // As many handles as the pool was made for are open.
    SW_NO_SLOT = 24,
    // The kernel said no: sw_last_error() says to what.
    SW_SYSTEM = 25,
    // An error in the library. Nothing else is harmed; please report it.
    SW_INTERNAL = 26,
} sw_status;

// Type of the elements of a tensor.
typedef enum sw_dtype {
    // Unsigned, 8 bits; also bytes without a type.
    SW_U8 = 0,
    SW_I8 = 1,
    SW_U16 = 2,
    SW_I16 = 3,
    SW_U32 = 4,
    SW_I32 = 5,
    SW_U64 = 6,
    SW_I64 = 7,
    // IEEE 754 binary16.
    SW_F16 = 8,
    // The upper half of a binary32.
    SW_BF16 = 9,
    SW_F32 = 10,
    SW_F64 = 11,
} sw_dtype;

// Buffers of one size.
typedef struct sw_class {
    // Bytes of each; rounded up to a multiple of 64. Larger than that of the class before.
    uint64_t buffer_bytes;
    // How many.
    uint32_t buffer_count;
    // 0: they lie in the pool. 1: each has a segment of its own, made when it is first used; for very large ones.
    uint32_t own_segment;
} sw_class;

// How a pool is made and watched. All zero is the default.
typedef struct sw_pool_options {
    // The sizes, smallest first; null for the default: 1,024 of 4 KiB, 128 of 64 KiB, 16 of 1 MiB.
    const struct sw_class *classes;
    // How many sizes: at most 16.
    size_t class_count;
    // How many handles, one a thread, can have the pool open at once: at most 32; 0 for 16.
    uint32_t handle_count;
    // 0: a detached reference stays when the process that detached it dies. 1: it goes with the handle that detached last, when
    // that is closed or its process dies.
    uint32_t release_orphans;
    // 0: the largest pages that can be had and stay when this process ends. 1: 4 KiB pages.
    uint32_t small_pages;
    // Within how many milliseconds the death of a process is noticed; 0 for 100.
    uint32_t death_noticed_within_ms;
} sw_pool_options;

// A pool that this thread has open. A word to pass on, and no pointer; all zero is no pool. It may be used by the thread that
// opened the pool, and by no other.
typedef struct sw_pool {
    uint64_t handle;
} sw_pool;

// The buffers of one size, counted.
typedef struct sw_class_stats {
    // Bytes of each.
    uint64_t buffer_bytes;
    // How many there are.
    uint32_t buffer_count;
    // Nobody has them.
    uint32_t free;
    // Somebody writes them.
    uint32_t written;
    // Somebody reads them.
    uint32_t shared;
    // All their references are detached.
    uint32_t detached;
    // Zero.
    uint32_t reserved;
    // References altogether.
    uint64_t references;
    // Bytes in use, of those that are not free.
    uint64_t used_bytes;
} sw_class_stats;

// A buffer in hand. A word to pass on, and no pointer; all zero is no buffer. It belongs to the thread that took it, until
// sw_release() or sw_detach(). Copies of the word are the same handle.
typedef struct sw_buffer {
    uint64_t handle;
} sw_buffer;

// What is in a buffer.
typedef struct sw_description {
    // A number of sw_dtype.
    uint32_t dtype;
    // Number of dimensions: at most SW_NDIM_MAX; 0 is a single element.
    uint32_t ndim;
    // Elements in each dimension, outermost first.
    uint64_t shape[SW_NDIM_MAX];
    // Bytes from one element to the next in each dimension.
    uint64_t strides[SW_NDIM_MAX];
    // When it was made, in nanoseconds, of a clock that writer and reader agree on.
    uint64_t timestamp_ns;
    // Number in a stream of buffers.
    uint64_t sequence;
    // What the content is: at most SW_LABEL_MAX bytes and a zero. Any bytes: another process wrote them.
    char content_type[40];
    // Who made it: likewise.
    char producer[40];
} sw_description;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// SW_ABI_VERSION of the library that was loaded. Where it is not that of the header, compile anew.
uint32_t sw_abi_version(void);

// One line for a status, never null. Static: not to be freed.
const char *sw_strerror(int status);

// What the last call of this thread that failed has to say: the function, the field that is wrong, the remedy. Empty where
// none has failed. Never null. It belongs to the library and holds until the thread calls sw_last_error() again.
const char *sw_last_error(void);

// Makes a pool and opens it for this thread. `options` may be null for the default.
//
// On SW_OK `*pool` is the caller's, to be closed by sw_pool_close(). SW_EXISTS where the name is taken, SW_ARGUMENT where name
// or options cannot be, SW_SYSTEM. The promise is that of sw_pool_open().
int sw_pool_create(const char *name, const struct sw_pool_options *options, struct sw_pool *pool);

// Opens a pool that is there, for this thread. Of `options`, which may be null, only `death_noticed_within_ms` counts, and
// `small_pages` for buffers with segments of their own.
//
// On SW_OK `*pool` is the caller's, to be closed by sw_pool_close(). SW_MISSING, SW_UNUSABLE, SW_NO_SLOT, SW_SYSTEM.
//
// The promise: who opens a pool touches the bytes of a buffer through what sw_data() and sw_data_mut() gave, while the buffer
// is in hand, and through nothing else. A program that breaks it spoils what others read. A pool is for processes of one
// user that trust each other that far; its metadata are checked all the same, and nothing that stands there crashes a reader.
//
// Each thread that uses the pool opens it, and takes one of its handles. The first open of a process maps the pool and starts a
// thread of the library, which sleeps until a process of the pool dies; the options of that one count, and later opens share
// both. A thread that ends gives back what it has in hand and closes its pools; of a process that dies, the others take it back.
int sw_pool_open(const char *name, const struct sw_pool_options *options, struct sw_pool *pool);

// As sw_pool_open(), or as sw_pool_create() where there is no pool of that name.
int sw_pool_open_or_create(const char *name, const struct sw_pool_options *options, struct sw_pool *pool);

// Closes it: the handle is none any more, and what sw_data() gave points nowhere. The pool itself stays, and so does what is
// detached, unless the pool was made with `release_orphans`: then what this handle detached last goes with it. SW_IN_USE while
// buffers of it are in hand: nothing has changed then. The last close of a process waits for the library's thread, some
// milliseconds.
int sw_pool_close(struct sw_pool pool);

// Removes the name, so that nobody can open it any more. Who has the pool open keeps it, this thread included; but buffers with
// segments of their own that a process has not used before are SW_NOT_MAPPED to it from then on: see sw_pool_map_large().
int sw_pool_unlink(struct sw_pool pool);

// Makes and maps every buffer that has a segment of its own now, so that none has to be when it is first used. SW_NOT_MAPPED,
// where sw_last_error() says what is lacking.
int sw_pool_map_large(struct sw_pool pool);

// Counts the buffers of each size, smallest first: a walk over all of them.
//
// `stats` is an array of `room` of them, the caller's; `*count` gets how many sizes there are, which may be more. Null with a
// `room` of 0 asks for the number alone.
int sw_pool_stats(struct sw_pool pool, struct sw_class_stats *stats, size_t room, size_t *count);

// Takes back now what dead processes held, without waiting until one of the others notices. `freed`, which may be null, gets
// how many buffers came free by it.
int sw_pool_reclaim(struct sw_pool pool, uint32_t *freed);

// Takes a free buffer of at least `bytes` bytes, to write; its length is `bytes`. What its last user wrote is still in it.
//
// `timeout_ns` says how long to wait for one where none is free: 0 not at all, less than 0 for ever. On SW_OK `*buffer` is in
// the caller's hand, and nobody else can write or read it, until sw_publish(), sw_detach() or sw_release(). SW_FULL,
// SW_TOO_LARGE, SW_NOT_MAPPED, SW_FENCED.
int sw_acquire(struct sw_pool pool, size_t bytes, int64_t timeout_ns, struct sw_buffer *buffer);

// Takes the buffer of an id, to read, with others. The reference by which the id was known stays.
//
// On SW_OK `*buffer` is in the caller's hand until sw_release() or sw_detach(). SW_BUSY while somebody writes it, SW_STALE,
// SW_FOREIGN.
int sw_get(struct sw_pool pool, uint64_t id, struct sw_buffer *buffer);

// Takes the buffer of an id, to write, alone. Nobody may have it in hand: SW_BUSY else, also where this thread itself has.
// Otherwise as sw_get().
int sw_get_mut(struct sw_pool pool, uint64_t id, struct sw_buffer *buffer);

// As sw_get(), in place of one detached reference: what one side detached, the other adopts. SW_NO_REFERENCE where none is.
int sw_adopt(struct sw_pool pool, uint64_t id, struct sw_buffer *buffer);

// As sw_get_mut(), in place of one detached reference.
int sw_adopt_mut(struct sw_pool pool, uint64_t id, struct sw_buffer *buffer);

// Lets others read what the caller has written, and keeps it in hand, to read: the handle is the same, what sw_data_mut()
// gave must not be written any more. SW_READ_ONLY where it is taken to read already. SW_FENCED: the buffer is lost, and the
// handle is none any more.
int sw_publish(struct sw_buffer buffer);

// Gives up the handle and leaves its reference behind, for whoever is told `*id`: by sw_adopt(), or sw_id_release(). What
// was written is published by it.
//
// On SW_OK the handle is none any more. Else it is as before: SW_TOO_MANY_REFERENCES, SW_FENCED. An id that reaches nobody
// keeps its buffer for as long as the pool exists.
int sw_detach(struct sw_buffer buffer, uint64_t *id);

// Lets go of a buffer: the handle is none any more, what sw_data() gave must not be touched, and where this was the last
// reference the buffer is free. SW_HANDLE where it was released or detached before: nothing happens then, also where the
// buffer has another user now.
int sw_release(struct sw_buffer buffer);

// The bytes of a buffer in hand, to read: `*data` is aligned to 64 bytes, and good until the handle ends. `bytes`, which may
// be null, gets how many are in use.
int sw_data(struct sw_buffer buffer, const void **data, size_t *bytes);

// The bytes of a buffer in hand, to write: as sw_data(). Good until sw_publish(), too. SW_READ_ONLY where the buffer was taken
// to read.
int sw_data_mut(struct sw_buffer buffer, void **data, size_t *bytes);

// The id by which others find the buffer, for as long as it has references.
int sw_id(struct sw_buffer buffer, uint64_t *id);

// How many bytes the buffer can hold: at least what was asked for.
int sw_capacity(struct sw_buffer buffer, size_t *bytes);

// Says how many bytes are in use. SW_OUT_OF_RANGE where the buffer has fewer, SW_READ_ONLY.
int sw_set_length(struct sw_buffer buffer, size_t bytes);

// Sets how many references a buffer that is taken to write has, the caller's included: 1 to 32. The others are detached: each
// of those who are told the id has one to adopt or to release.
int sw_set_ref_count(struct sw_buffer buffer, uint32_t count);

// One detached reference more, for somebody else to adopt or release. `count`, which may be null, gets how many references
// there are then. SW_STALE, SW_FOREIGN, SW_TOO_MANY_REFERENCES.
int sw_id_add_ref(struct sw_pool pool, uint64_t id, uint32_t *count);

// One detached reference less; the last reference frees the buffer. `count`, which may be null, gets how many there are then.
// SW_NO_REFERENCE where none is detached: those in hand end by sw_release() only.
int sw_id_release(struct sw_pool pool, uint64_t id, uint32_t *count);

// How many references the buffer of an id has: one for each thread that has it in hand, and the detached ones.
int sw_id_ref_count(struct sw_pool pool, uint64_t id, uint32_t *count);

// Bytes of one element of a sw_dtype; 0 where there is no such type.
size_t sw_dtype_bytes(uint32_t dtype);

// Fills in a description of elements that lie side by side, the last dimension innermost (C order); without time, number and
// labels. `shape` has `ndim` numbers. SW_ARGUMENT, or SW_SHAPE for more than SW_NDIM_MAX dimensions or too many bytes.
int sw_description_init(struct sw_description *description, uint32_t dtype, uint32_t ndim, const uint64_t *shape);

// Says what is in a buffer that is taken to write. Readers see it once it is published or detached. The description is copied.
//
// SW_SHAPE where shape and strides do not lie within the bytes in use, or a stride is no whole number of elements;
// SW_ARGUMENT for another dtype, or a label without an end; SW_READ_ONLY.
int sw_describe(struct sw_buffer buffer, const struct sw_description *description);

// What its writer said is in a buffer. Shape and strides lie within the bytes that sw_data() gives: that was checked.
//
// SW_NOT_DESCRIBED; SW_SHAPE, SW_CORRUPT where what it says cannot be.
int sw_description_of(struct sw_buffer buffer, struct sw_description *description);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SPINWIRE_H */
