/* What WQEs look like by rdma-core's own header: its structures, its inline setters. One line of standard input is one WQE:
 *
 *   blocks of the ring, index, f(ill) or w(rap), number of the queue pair,
 *   opcode, modifier, fm_ce_se, imm, then segments by letter; numbers are hexadecimal
 *
 * or, of a receive (mode r, or s in a shared queue), index, stride in bytes and the next WQE instead of what follows the mode,
 * and one line of output the whole ring behind it, in which every byte was EE. Masked atomics and relaxed ordering are in no public
 * header: their words are put by hand, as the kernel's and UCX's sources have them. */
#include <endian.h>
#include <infiniband/mlx5dv.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned char wqe[2048], ring[64 * 2048];
static size_t used;

static void *take(size_t bytes)
{
    void *at = wqe + used;
    used += bytes;
    return at;
}

static uint64_t number(void)
{
    const char *word = strtok(NULL, " \n");
    if (!word)
        exit(2);
    return strtoull(word, NULL, 16);
}

static size_t bytes(unsigned char *to)
{
    const char *word = strtok(NULL, " \n");
    size_t n = 0;
    unsigned byte;
    if (!word)
        exit(2);
    for (; word[2 * n] && word[2 * n] != '-'; n++) {
        sscanf(word + 2 * n, "%2x", &byte);
        to[n] = byte;
    }
    return n;
}

static void data(void)
{
    uint32_t length = number(), lkey = number();
    mlx5dv_set_data_seg(take(sizeof(struct mlx5_wqe_data_seg)), length, lkey, number());
}

static void av(void)
{
    unsigned char mac[6], gid[16];
    uint64_t key = number() << 32;
    uint32_t qpn = number();
    uint8_t rate_sl = number(), path = number();
    uint16_t rlid = number();
    bytes(mac);
    uint8_t class = number(), hops = number();
    uint32_t flow = number();
    bytes(gid);
    mlx5dv_set_dgram_seg(take(sizeof(struct mlx5_wqe_datagram_seg)), key, qpn, 1, rate_sl, path, rlid, mac, class, hops, flow, gid);
}

/* Fields of a key context, then so many entries. */
static void key(void)
{
    struct mlx5_wqe_umr_ctrl_seg *control = take(sizeof *control);
    struct mlx5_wqe_mkey_context_seg *context = take(sizeof *context);
    unsigned entries;
    control->flags = number();
    control->mkey_mask = htobe64(number());
    context->free = number();
    context->reserved1 = number();
    context->access_flags = number();
    context->qpn_mkey = htobe32(number());
    context->start_addr = htobe64(number());
    context->len = htobe64(number());
    context->log_page_size = number();
    entries = number();
    control->klm_octowords = htobe16((entries + 3) / 4 * 4);
    for (unsigned i = 0; i < entries; i++) {
        struct mlx5_wqe_umr_klm_seg *entry = take(sizeof *entry);
        entry->byte_count = htobe32(number());
        entry->mkey = htobe32(number());
        entry->address = htobe64(number());
    }
    take((entries + 3) / 4 * 64 - entries * 16);
}

static void segment(char letter)
{
    if (letter == 'R') {
        struct mlx5_wqe_raddr_seg *remote = take(sizeof *remote);
        remote->raddr = htobe64(number());
        remote->rkey = htobe32(number());
    } else if (letter == 'A') {
        struct mlx5_wqe_atomic_seg *atomic = take(sizeof *atomic);
        atomic->swap_add = htobe64(number());
        atomic->compare = htobe64(number());
    } else if (letter == 'Q') {
        uint64_t *word = take(8);
        *word = htobe64(number());
    } else if (letter == 'W') {
        uint32_t *word = take(4);
        *word = htobe32(number());
    } else if (letter == 'I') {
        struct mlx5_wqe_inl_data_seg *head = take(sizeof *head);
        size_t n = bytes((unsigned char *)(head + 1));
        head->byte_count = htobe32(n | MLX5_INLINE_SEG);
        take(n);
        used = (used + 15) / 16 * 16;
    } else if (letter == 'D') {
        data();
    } else if (letter == 'V') {
        av();
    } else if (letter == 'K') {
        key();
    } else {
        exit(3);
    }
}

/* The ring behind a receive, which lies in one stride. */
static void receive(unsigned blocks, unsigned index, char mode)
{
    size_t stride = number(), next = number();
    const char *word;
    if (mode == 's') {
        struct mlx5_wqe_srq_next_seg *head = take(sizeof *head);
        head->next_wqe_index = htobe16(next);
    }
    while ((word = strtok(NULL, " \n")))
        segment(*word);
    if (used < stride)
        mlx5dv_set_data_seg(take(sizeof(struct mlx5_wqe_data_seg)), 0, MLX5_INVALID_LKEY, 0);
    memcpy(ring + index * stride % (blocks * 64), wqe, used);
}

static void print(unsigned blocks)
{
    for (size_t i = 0; i < blocks * 64; i++)
        printf("%02x", ring[i]);
    putchar('\n');
}

int main(void)
{
    static char line[1 << 16];
    while (fgets(line, sizeof line, stdin)) {
        unsigned blocks = strtoul(strtok(line, " \n"), NULL, 16);
        unsigned index = number();
        char mode = *strtok(NULL, " \n");
        uint32_t qpn, imm;
        uint8_t opcode, opmod, flags;
        const char *word;
        size_t first, room;
        memset(wqe, 0, sizeof wqe);
        memset(ring, 0xEE, sizeof ring);
        used = 0;
        if (mode == 'r' || mode == 's') {
            receive(blocks, index, mode);
            print(blocks);
            continue;
        }
        qpn = number();
        opcode = number();
        opmod = number();
        flags = number();
        imm = number();
        used = sizeof(struct mlx5_wqe_ctrl_seg);
        while ((word = strtok(NULL, " \n")))
            segment(*word);
        first = index % blocks;
        room = blocks - first;
        if ((used + 63) / 64 > room && mode == 'f') {
            for (; room; room--, index++)
                mlx5dv_set_ctrl_seg((void *)(ring + index % blocks * 64), index, MLX5_OPCODE_NOP, 0, qpn, 0, 1, 0, 0),
                    memset(ring + index % blocks * 64 + 9, 0, 2);
            first = 0;
            room = blocks;
        }
        mlx5dv_set_ctrl_seg((void *)wqe, index, opcode, opmod, qpn, flags, used / 16, 0, htobe32(imm));
        room *= 64;
        if (room > used)
            room = used;
        memcpy(ring + first * 64, wqe, room);
        memcpy(ring, wqe + room, used - room);
        print(blocks);
    }
    return 0;
}
