/* Classes and sets of code points that pre-tokenizers use. Classes come from utf8proc (Unicode 15).
 * The table of cased letters is the one in DeepSeek LLM's tokenizer.json; the table of Han is
 * Script=Han of Unicode 15, which utf8proc does not know. */
#include "base/utf8.h"
#include "text/pretok_scan.h"

#include <utf8proc.h>

enum {
    LU = SP_CLASS_LU, LL = SP_CLASS_LL, NU = SP_CLASS_N, SP = SP_CLASS_SPACE, PU = SP_CLASS_P,
    SY = SP_CLASS_S, OT = SP_CLASS_OTHER
};

static const uint16_t ASCII[128] = {
    OT, OT, OT, OT, OT, OT, OT, OT, OT, SP, SP, SP, SP, SP, OT, OT,
    OT, OT, OT, OT, OT, OT, OT, OT, OT, OT, OT, OT, OT, OT, OT, OT,
    SP, PU, PU, PU, SY, PU, PU, PU, PU, PU, PU, SY, PU, PU, PU, PU,
    NU, NU, NU, NU, NU, NU, NU, NU, NU, NU, PU, PU, SY, SY, SY, PU,
    PU, LU, LU, LU, LU, LU, LU, LU, LU, LU, LU, LU, LU, LU, LU, LU,
    LU, LU, LU, LU, LU, LU, LU, LU, LU, LU, LU, PU, PU, PU, SY, PU,
    SY, LL, LL, LL, LL, LL, LL, LL, LL, LL, LL, LL, LL, LL, LL, LL,
    LL, LL, LL, LL, LL, LL, LL, LL, LL, LL, LL, PU, SY, PU, SY, OT,
};

unsigned sp_pretok_class(uint32_t cp)
{
    static const uint16_t of[] = {
        [UTF8PROC_CATEGORY_CN] = OT, [UTF8PROC_CATEGORY_LU] = LU, [UTF8PROC_CATEGORY_LL] = LL,
        [UTF8PROC_CATEGORY_LT] = SP_CLASS_LT, [UTF8PROC_CATEGORY_LM] = SP_CLASS_LM,
        [UTF8PROC_CATEGORY_LO] = SP_CLASS_LO, [UTF8PROC_CATEGORY_MN] = SP_CLASS_M,
        [UTF8PROC_CATEGORY_MC] = SP_CLASS_M, [UTF8PROC_CATEGORY_ME] = SP_CLASS_M,
        [UTF8PROC_CATEGORY_ND] = NU, [UTF8PROC_CATEGORY_NL] = NU, [UTF8PROC_CATEGORY_NO] = NU,
        [UTF8PROC_CATEGORY_PC] = PU, [UTF8PROC_CATEGORY_PD] = PU, [UTF8PROC_CATEGORY_PS] = PU,
        [UTF8PROC_CATEGORY_PE] = PU, [UTF8PROC_CATEGORY_PI] = PU, [UTF8PROC_CATEGORY_PF] = PU,
        [UTF8PROC_CATEGORY_PO] = PU, [UTF8PROC_CATEGORY_SM] = SY, [UTF8PROC_CATEGORY_SC] = SY,
        [UTF8PROC_CATEGORY_SK] = SY, [UTF8PROC_CATEGORY_SO] = SY, [UTF8PROC_CATEGORY_ZS] = SP,
        [UTF8PROC_CATEGORY_ZL] = SP, [UTF8PROC_CATEGORY_ZP] = SP, [UTF8PROC_CATEGORY_CC] = OT,
        [UTF8PROC_CATEGORY_CF] = OT, [UTF8PROC_CATEGORY_CS] = OT, [UTF8PROC_CATEGORY_CO] = OT};
    if (cp < 128)
        return ASCII[cp];
    if (cp == 0x85) /* the one control character beyond ASCII that is White_Space */
        return SP;
    return of[utf8proc_category((utf8proc_int32_t)cp)];
}

const sp_pretok_range sp_pretok_cased[SP_PRETOK_N_CASED] = {
    {0x41, 0x5a}, {0x61, 0x7a}, {0xb5, 0xb5}, {0xc0, 0xd6}, {0xd8, 0xf6}, {0xf8, 0x1ba},
    {0x1bc, 0x1bf}, {0x1c4, 0x293}, {0x295, 0x2af}, {0x370, 0x373}, {0x376, 0x376}, {0x377, 0x377},
    {0x37b, 0x37d}, {0x37f, 0x37f}, {0x386, 0x386}, {0x388, 0x38a}, {0x38c, 0x38c}, {0x38e, 0x3a1},
    {0x3a3, 0x3f5}, {0x3f7, 0x481}, {0x48a, 0x52f}, {0x531, 0x556}, {0x10a0, 0x10c5},
    {0x13a0, 0x13f5}, {0x13f8, 0x13fd}, {0x1c90, 0x1cba}, {0x1cbd, 0x1cbf}, {0x1d00, 0x1d2b},
    {0x1d6b, 0x1d77}, {0x1d79, 0x1d9a}, {0x1e00, 0x1f15}, {0x1f18, 0x1f1d}, {0x1f20, 0x1f45},
    {0x1f48, 0x1f4d}, {0x1f50, 0x1f57}, {0x1f59, 0x1f59}, {0x1f5b, 0x1f5b}, {0x1f5d, 0x1f5d},
    {0x1f5f, 0x1f7d}, {0x1f80, 0x1fb4}, {0x1fb6, 0x1fbc}, {0x1fbe, 0x1fbe}, {0x1fc2, 0x1fc4},
    {0x1fc6, 0x1fcc}, {0x1fd0, 0x1fd3}, {0x1fd6, 0x1fdb}, {0x1fe0, 0x1fec}, {0x1ff2, 0x1ff4},
    {0x1ff6, 0x1ffc}, {0x2102, 0x2102}, {0x2107, 0x2107}, {0x210a, 0x2113}, {0x2115, 0x2115},
    {0x2119, 0x211d}, {0x2124, 0x2124}, {0x2126, 0x2126}, {0x2128, 0x2128}, {0x212a, 0x212d},
    {0x212f, 0x2134}, {0x2139, 0x2139}, {0x213c, 0x213f}, {0x2145, 0x2149}, {0x214e, 0x214e},
    {0x2183, 0x2183}, {0x2184, 0x2184}, {0x2c00, 0x2c7b}, {0x2c7e, 0x2ce4}, {0x2ceb, 0x2cee},
    {0x2cf2, 0x2cf2}, {0x2cf3, 0x2cf3}, {0xa640, 0xa66d}, {0xa680, 0xa69b}, {0xa722, 0xa76f},
    {0xa771, 0xa787}, {0xa78b, 0xa78e}, {0xab70, 0xabbf}, {0xfb00, 0xfb06}, {0xfb13, 0xfb17},
    {0xff21, 0xff3a}, {0xff41, 0xff5a}, {0x10400, 0x1044f}, {0x104b0, 0x104d3}, {0x104d8, 0x104fb},
    {0x10c80, 0x10cb2}, {0x10cc0, 0x10cf2}, {0x118a0, 0x118df}, {0x1e900, 0x1e943},
};

const sp_pretok_range sp_pretok_han[SP_PRETOK_N_HAN] = {
    {0x2e80, 0x2e99}, {0x2e9b, 0x2ef3}, {0x2f00, 0x2fd5}, {0x3005, 0x3005}, {0x3007, 0x3007},
    {0x3021, 0x3029}, {0x3038, 0x303b}, {0x3400, 0x4dbf}, {0x4e00, 0x9fff}, {0xf900, 0xfa6d},
    {0xfa70, 0xfad9}, {0x16fe2, 0x16fe2}, {0x16fe3, 0x16fe3}, {0x16ff0, 0x16ff1},
    {0x20000, 0x2a6df}, {0x2a700, 0x2b739}, {0x2b740, 0x2b81d}, {0x2b820, 0x2cea1},
    {0x2ceb0, 0x2ebe0}, {0x2f800, 0x2fa1d}, {0x30000, 0x3134a}, {0x31350, 0x323af},
};
