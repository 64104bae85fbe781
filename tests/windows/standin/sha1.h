/* SHA-1 (FIPS 180-4), for log lines. */
#ifndef SHA1_H
#define SHA1_H

#include <stdint.h>
#include <string.h>

typedef struct {
    uint32_t state[5];
    uint64_t length;
    uint8_t block[64];
} sha1_state;

static uint32_t sha1_rotate(uint32_t value, int bits) { return value << bits | value >> (32 - bits); }

static void sha1_block(sha1_state *sha) {
    uint32_t w[80], a = sha->state[0], b = sha->state[1], c = sha->state[2], d = sha->state[3], e = sha->state[4];
    for (int t = 0; t < 16; t++) {
        const uint8_t *p = sha->block + 4 * t;
        w[t] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    }
    for (int t = 16; t < 80; t++) w[t] = sha1_rotate(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);
    for (int t = 0; t < 80; t++) {
        uint32_t f, k;
        if (t < 20) f = (b & c) | (~b & d), k = 0x5a827999;
        else if (t < 40) f = b ^ c ^ d, k = 0x6ed9eba1;
        else if (t < 60) f = (b & c) | (b & d) | (c & d), k = 0x8f1bbcdc;
        else f = b ^ c ^ d, k = 0xca62c1d6;
        uint32_t next = sha1_rotate(a, 5) + f + e + k + w[t];
        e = d, d = c, c = sha1_rotate(b, 30), b = a, a = next;
    }
    sha->state[0] += a, sha->state[1] += b, sha->state[2] += c, sha->state[3] += d, sha->state[4] += e;
}

static void sha1_start(sha1_state *sha) {
    static const uint32_t start[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    memcpy(sha->state, start, sizeof start);
    sha->length = 0;
}

static void sha1_add(sha1_state *sha, const uint8_t *data, size_t size) {
    for (size_t i = 0; i < size; i++) {
        sha->block[sha->length++ % 64] = data[i];
        if (sha->length % 64 == 0) sha1_block(sha);
    }
}

static void sha1_finish(sha1_state *sha, uint8_t digest[20]) {
    uint64_t bits = sha->length * 8;
    uint8_t one = 0x80, zero = 0, size[8];
    for (int i = 0; i < 8; i++) size[i] = (uint8_t)(bits >> (56 - 8 * i));
    sha1_add(sha, &one, 1);
    while (sha->length % 64 != 56) sha1_add(sha, &zero, 1);
    sha1_add(sha, size, 8);
    for (int i = 0; i < 20; i++) digest[i] = (uint8_t)(sha->state[i / 4] >> (24 - 8 * (i % 4)));
}

#endif
