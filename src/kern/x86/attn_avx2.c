/* Attention over quantised pages for CPUs without vpdpbusd. */
#include "kern/x86/attn_nibbles.h"

void sp_attn_avx2_init(sp_kern *k)
{
    attn_init(k);
}
