/* The C end of an exchange with a Rust process: told what to do line by line, answers line by line.
 *
 *   adopt ID      checks a tensor of floats, 3 x 4, and releases it
 *   make          acquires, fills and describes 2 x 5 integers, detaches them, says their id
 *   publish       as make, but publishes and keeps it in hand
 *   read ID       takes the published buffer of that id, to read, and keeps it in hand
 *   count ID      says how many references there are
 *   hold          acquires one and keeps it, being written
 *   release       releases everything in hand
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "spinwire.h"

#define MUST(call)                                                                                     \
    do {                                                                                               \
        int status_ = (call);                                                                          \
        if (status_ != SW_OK) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, sw_last_error());                       \
            exit(1);                                                                                   \
        }                                                                                              \
    } while (0)

#define CHECK(truth)                                                                                   \
    do {                                                                                               \
        if (!(truth)) {                                                                                \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #truth);                        \
            exit(1);                                                                                   \
        }                                                                                              \
    } while (0)

static sw_buffer in_hand[16];
static size_t hands;

static void adopt(sw_pool pool, uint64_t id)
{
    sw_buffer buffer;
    sw_description d;
    const void *data;
    const float *values;
    size_t bytes, i;

    MUST(sw_adopt(pool, id, &buffer));
    MUST(sw_description_of(buffer, &d));
    CHECK(d.dtype == SW_F32 && d.ndim == 2 && d.shape[0] == 3 && d.shape[1] == 4);
    CHECK(d.strides[0] == 16 && d.strides[1] == 4);
    CHECK(d.timestamp_ns == 123456789 && d.sequence == 42);
    CHECK(strcmp(d.content_type, "tensor/test") == 0 && strcmp(d.producer, "rust") == 0);
    MUST(sw_data(buffer, &data, &bytes));
    CHECK(bytes == 12 * sizeof *values && (uintptr_t)data % 64 == 0);
    values = data;
    for (i = 0; i < 12; i++) CHECK(values[i] == (float)i * 0.5f);
    MUST(sw_release(buffer));
    CHECK(sw_release(buffer) == SW_HANDLE);
}

static sw_buffer filled(sw_pool pool)
{
    static const uint64_t shape[] = { 2, 5 };
    sw_buffer buffer;
    sw_description d;
    void *data;
    int32_t *values;
    size_t bytes;
    int i;

    MUST(sw_acquire(pool, 10 * sizeof *values, 0, &buffer));
    MUST(sw_data_mut(buffer, &data, &bytes));
    CHECK(bytes == 10 * sizeof *values);
    values = data;
    for (i = 0; i < 10; i++) values[i] = i * i - 20;
    MUST(sw_description_init(&d, SW_I32, 2, shape));
    d.timestamp_ns = 987654321;
    d.sequence = 7;
    strcpy(d.content_type, "0123456789abcdef0123456789abcdef");
    strcpy(d.producer, "c");
    MUST(sw_describe(buffer, &d));
    return buffer;
}

static void answer(sw_pool pool, const char *word, uint64_t id)
{
    sw_buffer buffer;
    uint32_t count;

    if (strcmp(word, "adopt") == 0) {
        adopt(pool, id);
        puts("ok");
    } else if (strcmp(word, "make") == 0) {
        MUST(sw_detach(filled(pool), &id));
        printf("%" PRIu64 "\n", id);
    } else if (strcmp(word, "publish") == 0 || strcmp(word, "hold") == 0) {
        buffer = filled(pool);
        if (word[0] == 'p') MUST(sw_publish(buffer));
        MUST(sw_id(buffer, &id));
        in_hand[hands++] = buffer;
        printf("%" PRIu64 "\n", id);
    } else if (strcmp(word, "read") == 0) {
        MUST(sw_get(pool, id, &in_hand[hands]));
        hands++;
        puts("ok");
    } else if (strcmp(word, "count") == 0) {
        MUST(sw_id_ref_count(pool, id, &count));
        printf("%" PRIu32 "\n", count);
    } else if (strcmp(word, "release") == 0) {
        while (hands > 0) MUST(sw_release(in_hand[--hands]));
        puts("ok");
    } else {
        CHECK(!"a known word");
    }
}

int main(int argc, char **argv)
{
    char line[128], word[32];
    sw_pool pool;

    CHECK(argc == 2 && sw_abi_version() == SW_ABI_VERSION);
    MUST(sw_pool_open(argv[1], NULL, &pool));
    puts("open");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        uint64_t id = 0;
        CHECK(sscanf(line, "%31s %" SCNu64, word, &id) >= 1);
        answer(pool, word, id);
        fflush(stdout);
    }
    MUST(sw_pool_close(pool));
    return 0;
}
