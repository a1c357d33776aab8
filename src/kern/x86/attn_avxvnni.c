/* Attention over quantised pages by vpdpbusd of AVX-VNNI; to the bit what attn_avx2.c computes. */
#include "kern/x86/attn_nibbles.h"

void sp_attn_avxvnni_init(sp_kern *k)
{
    attn_init(k);
}
