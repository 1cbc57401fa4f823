/* Everything that a C program can do wrong and be told, and what stays as it was. C and C++ alike. */
#include <dirent.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "spinwire.h"

#define CHECK(truth)                                                                                   \
    do {                                                                                               \
        if (!(truth)) {                                                                                \
            fprintf(stderr, "%s:%d: not so: %s (%s)\n", __FILE__, __LINE__, #truth, sw_last_error());  \
            exit(1);                                                                                   \
        }                                                                                              \
    } while (0)

/* Refused so, and with a text that has both words in it. */
static void refused(int status, int expected, const char *word, const char *other, int line)
{
    const char *text = sw_last_error();
    if (status == expected && strstr(text, word) && strstr(text, other)) return;
    fprintf(stderr, "%s:%d: %d instead of %d, or no %s and %s in: %s\n", __FILE__, line, status, expected, word, other, text);
    exit(1);
}
#define REFUSED(call, expected, word, other) refused((call), (expected), (word), (other), __LINE__)

static sw_pool pool;
static sw_pool_options options;

static void arguments(void)
{
    static sw_class classes[2];
    char far_too_long[100];
    sw_pool other;
    sw_buffer buffer;
    sw_pool_options wrong = options;
    union { uint64_t words[3]; char bytes[24]; } odd;

    REFUSED(sw_pool_open(NULL, NULL, &other), SW_ARGUMENT, "sw_pool_open: name", "null");
    REFUSED(sw_pool_open("x", NULL, NULL), SW_ARGUMENT, "pool", "remedy");
    REFUSED(sw_pool_open("\xff\xfe", NULL, &other), SW_ARGUMENT, "name", "UTF-8");
    REFUSED(sw_pool_open("a/b", NULL, &other), SW_ARGUMENT, "'/'", "remedy");
    REFUSED(sw_pool_open("nobody", NULL, &other), SW_MISSING, "sw_pool_open", "nobody");
    REFUSED(sw_pool_create("misuse", &options, &other), SW_EXISTS, "sw_pool_create", "misuse");
    memset(far_too_long, 'x', sizeof far_too_long);
    far_too_long[sizeof far_too_long - 1] = 0;
    CHECK(sw_pool_create(far_too_long, NULL, &other) == SW_ARGUMENT);
    wrong.small_pages = 7;
    REFUSED(sw_pool_create("new", &wrong, &other), SW_ARGUMENT, "options.small_pages", "0 nor 1");
    wrong = options;
    wrong.class_count = 1000;
    REFUSED(sw_pool_create("new", &wrong, &other), SW_ARGUMENT, "options.classes", "more");
    wrong.class_count = 2;
    wrong.classes = NULL;
    REFUSED(sw_pool_create("new", &wrong, &other), SW_ARGUMENT, "options.classes", "null");
    classes[0].buffer_bytes = 4096;
    classes[0].buffer_count = 1;
    classes[1] = classes[0];
    wrong.classes = classes;
    REFUSED(sw_pool_create("new", &wrong, &other), SW_ARGUMENT, "sw_pool_create", "options.classes[].buffer_bytes");
    wrong = options;
    wrong.handle_count = 33;
    REFUSED(sw_pool_create("new", &wrong, &other), SW_ARGUMENT, "options.handle_count", "32");
    /* A pointer that is not aligned: made so that neither compiler nor sanitizer sees it here. */
    REFUSED(sw_acquire(pool, 1, 0, (sw_buffer *)(void *)(odd.bytes + 1)), SW_ARGUMENT, "buffer", "aligned");
    REFUSED(sw_acquire(pool, 1, 0, NULL), SW_ARGUMENT, "buffer", "null");
    REFUSED(sw_acquire(pool, SIZE_MAX, 0, &buffer), SW_TOO_LARGE, "18446744073709551615", "8192");
    CHECK(sw_dtype_bytes(SW_BF16) == 2 && sw_dtype_bytes(SW_F64) == 8 && sw_dtype_bytes(12) == 0);
}

static void handles(void)
{
    static const uint64_t words[] = { 0, 1, UINT64_MAX, 0x7fffdeadbeef, (uint64_t)1 << 48 };
    sw_buffer buffer, next;
    sw_pool none;
    const void *data;
    uint64_t id;
    size_t i;

    for (i = 0; i < sizeof words / sizeof *words; i++) {
        buffer.handle = none.handle = words[i];
        CHECK(sw_release(buffer) == SW_HANDLE || sw_release(buffer) == SW_THREAD);
        CHECK(sw_data(buffer, &data, NULL) == SW_HANDLE || sw_data(buffer, &data, NULL) == SW_THREAD);
        CHECK(sw_pool_close(none) == SW_HANDLE || sw_pool_close(none) == SW_THREAD);
        CHECK(sw_acquire(none, 1, 0, &next) == SW_HANDLE || sw_acquire(none, 1, 0, &next) == SW_THREAD);
    }
    CHECK(sw_acquire(pool, 1, 0, &buffer) == SW_OK);
    REFUSED(sw_pool_close(pool), SW_IN_USE, "1 of its buffers", "release");
    CHECK(sw_release(buffer) == SW_OK);
    REFUSED(sw_release(buffer), SW_HANDLE, "sw_release: buffer", "once only");
    CHECK(sw_acquire(pool, 1, 0, &next) == SW_OK);
    /* The same place in the tables, and the same memory: a second release does not hit the new user. */
    CHECK(buffer.handle != next.handle);
    REFUSED(sw_release(buffer), SW_HANDLE, "buffer", "before");
    CHECK(sw_detach(buffer, &id) == SW_HANDLE && sw_publish(buffer) == SW_HANDLE);
    CHECK(sw_data(next, &data, NULL) == SW_OK);
    CHECK(sw_detach(next, &id) == SW_OK && sw_release(next) == SW_HANDLE);
    CHECK(sw_id_release(pool, id, NULL) == SW_OK);
    REFUSED(sw_get(pool, id, &next), SW_STALE, "sw_get", "new id");
}

static void rights(void)
{
    sw_buffer writer, reader, all[9];
    sw_description d;
    uint64_t id, shape[9] = { 4, 1 };
    uint32_t count;
    size_t bytes, i;
    void *to;

    CHECK(sw_acquire(pool, 64, 0, &writer) == SW_OK && sw_id(writer, &id) == SW_OK);
    CHECK(sw_get(pool, id, &reader) == SW_BUSY && sw_get_mut(pool, id, &reader) == SW_BUSY);
    CHECK(sw_capacity(writer, &bytes) == SW_OK && bytes == 4096);
    CHECK(sw_description_of(writer, &d) == SW_NOT_DESCRIBED);
    REFUSED(sw_set_length(writer, 4097), SW_OUT_OF_RANGE, "4097", "4096");
    CHECK(sw_description_init(&d, SW_F64, 9, shape) == SW_SHAPE);
    CHECK(sw_description_init(&d, SW_F64, 1, NULL) == SW_ARGUMENT);
    CHECK(sw_description_init(&d, 99, 1, shape) == SW_ARGUMENT);
    CHECK(sw_description_init(&d, SW_F64, 0, NULL) == SW_OK && d.ndim == 0);
    shape[0] = 9;
    CHECK(sw_description_init(&d, SW_F64, 1, shape) == SW_OK && d.strides[0] == 8);
    CHECK(sw_describe(writer, &d) == SW_SHAPE);
    shape[0] = UINT64_MAX;
    shape[1] = UINT64_MAX;
    CHECK(sw_description_init(&d, SW_F64, 2, shape) == SW_SHAPE);
    memset(&d, 0, sizeof d);
    memset(d.content_type, 'x', sizeof d.content_type);
    REFUSED(sw_describe(writer, &d), SW_ARGUMENT, "content_type", "SW_LABEL_MAX");
    d.content_type[33] = 0;
    CHECK(sw_describe(writer, &d) == SW_ARGUMENT);
    d.content_type[32] = 0;
    CHECK(sw_describe(writer, &d) == SW_OK);
    d.ndim = 9;
    REFUSED(sw_describe(writer, &d), SW_ARGUMENT, "ndim", "SW_NDIM_MAX");
    CHECK(sw_set_ref_count(writer, 0) == SW_NO_REFERENCE && sw_set_ref_count(writer, 33) == SW_TOO_MANY_REFERENCES);
    CHECK(sw_publish(writer) == SW_OK);
    CHECK(sw_publish(writer) == SW_READ_ONLY && sw_data_mut(writer, &to, NULL) == SW_READ_ONLY);
    CHECK(sw_set_length(writer, 1) == SW_READ_ONLY && sw_describe(writer, &d) == SW_READ_ONLY);
    CHECK(sw_adopt(pool, id, &reader) == SW_NO_REFERENCE && sw_id_release(pool, id, NULL) == SW_NO_REFERENCE);
    CHECK(sw_get_mut(pool, id, &reader) == SW_BUSY);
    CHECK(sw_get(pool, id, &reader) == SW_OK && reader.handle != writer.handle);
    CHECK(sw_id_ref_count(pool, id, &count) == SW_OK && count == 1);
    CHECK(sw_id_add_ref(pool, id, &count) == SW_OK && count == 2);
    CHECK(sw_release(reader) == SW_OK && sw_release(writer) == SW_OK);
    CHECK(sw_get_mut(pool, id, &writer) == SW_OK && sw_release(writer) == SW_OK);
    CHECK(sw_adopt_mut(pool, id, &writer) == SW_OK && sw_release(writer) == SW_OK);
    CHECK(sw_id_ref_count(pool, id, &count) == SW_STALE);
    CHECK(sw_get(pool, 0, &reader) == SW_FOREIGN && sw_get(pool, UINT64_MAX, &reader) != SW_OK);
    for (i = 0; i < 4; i++) CHECK(sw_acquire(pool, 1, 0, &all[i]) == SW_OK);
    REFUSED(sw_acquire(pool, 1, 0, &all[4]), SW_FULL, "sw_acquire", "in use");
    CHECK(sw_acquire(pool, 1, 1000000, &all[4]) == SW_FULL);
    for (i = 0; i < 4; i++) CHECK(sw_release(all[i]) == SW_OK);
}

/* Buffers with segments of their own: mapped before the pool is removed, or not at all. */
static void large_buffers(void)
{
    sw_class size = { 65536, 2, 1 };
    sw_pool_options with_large = options;
    sw_pool first, second, other;
    sw_buffer buffer, mine;
    sw_class_stats stats;
    size_t count;
    uint64_t id;

    with_large.classes = &size;
    with_large.class_count = 1;
    CHECK(sw_pool_create("large", &with_large, &first) == SW_OK);
    CHECK(sw_acquire(first, 1, 0, &mine) == SW_OK && sw_id(mine, &id) == SW_OK && sw_publish(mine) == SW_OK);
    /* Opened again by the same process: shared. By another name, or one that was given anew: not. */
    CHECK(sw_pool_open("large", NULL, &second) == SW_OK && second.handle != first.handle);
    CHECK(sw_get(second, id, &buffer) == SW_OK && sw_release(buffer) == SW_OK);
    CHECK(sw_pool_close(second) == SW_OK);
    CHECK(sw_pool_unlink(first) == SW_OK);
    REFUSED(sw_acquire(first, 1, 0, &buffer), SW_NOT_MAPPED, "sw_acquire: large buffer in slot 1", "large was removed");
    REFUSED(sw_pool_map_large(first), SW_NOT_MAPPED, "sw_pool_map_large", "remedy");
    CHECK(sw_release(mine) == SW_OK);
    CHECK(sw_acquire(first, 1, 0, &buffer) == SW_OK && sw_release(buffer) == SW_OK); /* the one that is mapped */
    size.buffer_bytes = 4096;
    CHECK(sw_pool_open_or_create("large", &with_large, &other) == SW_OK);
    CHECK(sw_pool_stats(other, &stats, 1, &count) == SW_OK && stats.buffer_bytes == 4096);
    CHECK(sw_pool_map_large(other) == SW_OK && sw_pool_unlink(other) == SW_OK);
    CHECK(sw_acquire(other, 1, 0, &buffer) == SW_OK && sw_release(buffer) == SW_OK);
    CHECK(sw_pool_close(first) == SW_OK && sw_pool_close(other) == SW_OK);
}

static sw_buffer of_main;
static int checked;

/* How many threads this process has. */
static int threads(void)
{
    struct dirent *entry;
    DIR *tasks = opendir("/proc/self/task");
    int count = 0;

    CHECK(tasks);
    while ((entry = readdir(tasks))) count += entry->d_name[0] != '.';
    closedir(tasks);
    return count;
}

static void *elsewhere(void *unused)
{
    sw_pool mine;
    sw_buffer buffer;
    int before;

    (void)unused;
    CHECK(sw_last_error()[0] == 0);
    REFUSED(sw_acquire(pool, 1, 0, &buffer), SW_THREAD, "pool", "another thread");
    CHECK(sw_release(of_main) == SW_THREAD && sw_pool_close(pool) == SW_THREAD);
    before = threads();
    CHECK(sw_pool_open("misuse", NULL, &mine) == SW_OK);
    CHECK(threads() <= before); /* it is mapped and watched once a process */
    CHECK(sw_acquire(mine, 1, 0, &buffer) == SW_OK);
    return NULL; /* with a buffer in hand and a pool open */
}

/* A signal that the program's own threads block stays for them: the library's thread does not take it. */
static void signals(void)
{
    struct timespec patience = { 60, 0 };
    sigset_t mine, before;

    sigemptyset(&mine);
    sigaddset(&mine, SIGUSR1);
    CHECK(pthread_sigmask(SIG_BLOCK, &mine, &before) == 0 && !sigismember(&before, SIGUSR1));
    CHECK(kill(getpid(), SIGUSR1) == 0);
    CHECK(sigtimedwait(&mine, NULL, &patience) == SIGUSR1);
    CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
}

static void threads_and_forks(void)
{
    sw_class_stats stats[2];
    pthread_t thread;
    uint32_t freed;
    size_t count;
    int status;
    pid_t child;

    CHECK(sw_acquire(pool, 1, 0, &of_main) == SW_OK);
    CHECK(pthread_create(&thread, NULL, elsewhere, NULL) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(sw_pool_stats(pool, NULL, 0, &count) == SW_OK && count == 2);
    CHECK(sw_pool_stats(pool, stats, 2, &count) == SW_OK && stats[0].buffer_bytes == 4096);
    CHECK(stats[0].free == 3 && stats[0].written == 1); /* the thread gave back its own, and nothing else */
    child = fork();
    if (child == 0) {
        sw_pool again;
        REFUSED(sw_release(of_main), SW_FORKED, "buffer", "fork");
        REFUSED(sw_pool_close(pool), SW_FORKED, "pool", "open the pool again");
        CHECK(threads() == 1 && sw_pool_open("misuse", NULL, &again) == SW_OK);
        CHECK(threads() == 2); /* not watched by the parent's thread, which does not run here */
        /* What is the parent's is left alone, and looks lost to a checker of leaks. */
        if (checked) execlp("true", "true", (char *)NULL);
        exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(sw_pool_reclaim(pool, &freed) == SW_OK && sw_pool_reclaim(pool, NULL) == SW_OK);
    CHECK(sw_pool_stats(pool, stats, 1, &count) == SW_OK && stats[0].written == 1);
    CHECK(sw_release(of_main) == SW_OK);
}

/* With an argument: under a checker of memory. */
int main(int argc, char **argv)
{
    sw_class classes[2] = { { 4096, 4, 0 }, { 8192, 1, 1 } };
    sw_class_stats stats[2];
    sw_buffer buffer;
    size_t count;
    int status;

    (void)argv;
    checked = argc > 1;
    for (status = -1; status <= SW_INTERNAL + 1; status++) CHECK(strlen(sw_strerror(status)) > 3);
    CHECK(strstr(sw_strerror(SW_INTERNAL + 1), "no status"));
    CHECK(sw_last_error()[0] == 0);
    options.classes = classes;
    options.class_count = 2;
    options.handle_count = 4;
    options.small_pages = 1;
    options.death_noticed_within_ms = 20;
    CHECK(sw_pool_open_or_create("misuse", &options, &pool) == SW_OK);
    arguments();
    handles();
    rights();
    large_buffers();
    signals();
    threads_and_forks();
    CHECK(sw_acquire(pool, 8192, -1, &buffer) == SW_OK && sw_release(buffer) == SW_OK);
    CHECK(sw_pool_stats(pool, stats, 2, &count) == SW_OK && stats[0].free == 4 && stats[1].free == 1);
    CHECK(sw_pool_unlink(pool) == SW_OK && sw_pool_close(pool) == SW_OK);
    REFUSED(sw_pool_close(pool), SW_HANDLE, "sw_pool_close: pool", "once only");
    puts("done");
    return 0;
}
