"""Records the reference dequantisation of the types of 1 to 4 bits that use grids, FP4 or ternary values.

usage: record_dequant.py [LIBGGML_BASE_SO]

data/dequant-iq.json holds for each type, in `types`, 512 values of random blocks in the form of dequant.json,
and in `tables` blocks that take every entry of the type's grid once or oftener, all scales and all signs. The
scales of those blocks are powers of two, so that every value is exact in f32 whatever the order of the
products; `fnv1a` is FNV-1a (64 bits) of all values as little-endian f32, no zero negative.

With the path of libggml-base.so each value is also compared with ggml's own C code, bit for bit."""
import ctypes
import json
import pathlib
import sys

import gguf
import numpy as np

OUT = pathlib.Path(__file__).parent / "data/dequant-iq.json"
SEED = 20261129
Q = gguf.GGMLQuantizationType
TYPES = (Q.IQ1_S, Q.IQ1_M, Q.IQ2_XXS, Q.IQ2_XS, Q.IQ2_S, Q.IQ3_XXS, Q.IQ3_S, Q.MXFP4, Q.NVFP4, Q.TQ1_0, Q.TQ2_0)
# Where the half-precision scale of a block stands; IQ1_M scatters it over its four 16-bit scale words.
SCALE_AT = {Q.TQ1_0: 52, Q.TQ2_0: 64, Q.IQ1_M: None, Q.MXFP4: None, Q.NVFP4: None}
# Entries of the grid, and how many indices a block of 256 values holds.
GRID = {Q.IQ1_S: (2048, 32), Q.IQ1_M: (2048, 32), Q.IQ2_XXS: (256, 32), Q.IQ2_XS: (512, 32), Q.IQ2_S: (1024, 32),
        Q.IQ3_XXS: (256, 64), Q.IQ3_S: (512, 64)}


def set_scale(t, raw, halves):
    """Puts half-precision scales into blocks."""
    words = halves.astype(np.float16).view(np.uint16)
    if t == Q.IQ1_M:  # bits 4i to 4i+3 of the scale are the top bits of scale word i
        for i in range(4):
            raw[:, 49 + 2 * i] = (raw[:, 49 + 2 * i] & 0x0f) | ((words >> (4 * i) & 15) << 4).astype(np.uint8)
    else:
        at = SCALE_AT.get(t, 0)
        raw[:, at:at + 2] = words.view(np.uint8).reshape(-1, 2)


def set_index(t, b, i, v):
    """Puts grid index v at place i of the block b."""
    lo, hi = v & 255, v >> 8
    if t == Q.IQ1_S:
        b[2 + i] = lo
        w = b[34 + i // 4 * 2:36 + i // 4 * 2].view(np.uint16)
        w[0] = int(w[0]) & ~(7 << 3 * (i % 4)) | hi << 3 * (i % 4)
    elif t == Q.IQ1_M:
        b[i] = lo
        b[32 + i // 2] = int(b[32 + i // 2]) & ~(7 << 4 * (i % 2)) | hi << 4 * (i % 2)
    elif t == Q.IQ2_XXS:
        b[2 + i // 4 * 8 + i % 4] = lo
    elif t == Q.IQ2_XS:
        w = b[2 + 2 * i:4 + 2 * i].view(np.uint16)
        w[0] = int(w[0]) & ~511 | v
    elif t == Q.IQ2_S:
        b[2 + i] = lo
        b[66 + i // 4] = int(b[66 + i // 4]) & ~(3 << 2 * (i % 4)) | hi << 2 * (i % 4)
    elif t == Q.IQ3_XXS:
        b[2 + i] = lo
    elif t == Q.IQ3_S:
        b[2 + i] = lo
        b[66 + i // 8] = int(b[66 + i // 8]) & ~(1 << i % 8) | hi << i % 8


def blocks(t, rng, n, exact):
    raw = rng.integers(0, 256, (n, gguf.GGML_QUANT_SIZES[t][1]), dtype=np.uint8)
    if t == Q.MXFP4:
        raw[:, 0] = np.arange(n) % 251 if exact else rng.integers(110, 136, n)  # from 251 on a value may overflow
    elif t == Q.NVFP4:
        raw[:, :4] = (np.arange(4 * n) % 127).reshape(-1, 4) if exact else rng.integers(0, 127, (n, 4))
    elif exact:
        set_scale(t, raw, np.exp2(rng.integers(-6, 4, n)) * np.where(rng.random(n) < 0.5, -1, 1))
    else:
        set_scale(t, raw, rng.standard_normal(n) * 0.1)
    return raw


def table_blocks(t, rng):
    if t not in GRID:
        return blocks(t, rng, {Q.MXFP4: 251, Q.NVFP4: 127}.get(t, 16), True)
    n_entry, per_block = GRID[t]
    n = max(n_entry // per_block, 16)
    raw = blocks(t, rng, n, True)
    for at, v in enumerate(rng.permutation(n * per_block) % n_entry):
        set_index(t, raw[at // per_block], at % per_block, int(v))
    return raw


def values_of(t, raw, lib):
    got = gguf.quants.dequantize(raw.reshape(1, -1), t).reshape(-1).astype(np.float32) + np.float32(0)
    if lib is not None:
        out = np.empty_like(got)
        row = getattr(lib, "dequantize_row_" + t.name.lower())
        row(raw.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(out.size))
        if not np.array_equal(out, got):
            sys.exit(f"{t.name}: ggml's C code gives other values at {np.flatnonzero(out != got)[:8]}")
    return got


def fnv1a(data):
    h = 0xcbf29ce484222325
    for b in data:
        h = (h ^ b) * 0x100000001b3 & 0xffffffffffffffff
    return f"{h:016x}"


def main():
    lib = ctypes.CDLL(sys.argv[1]) if len(sys.argv) > 1 else None
    out = {"gguf": "0.19.0 reference dequantisation", "seed": SEED, "types": {}, "tables": {}}
    for t in TYPES:
        rng = np.random.default_rng(SEED + int(t))
        raw = blocks(t, rng, 512 // gguf.GGML_QUANT_SIZES[t][0], False)
        v = values_of(t, raw, lib)
        out["types"][t.name] = {"number": int(t), "bytes": raw.tobytes().hex(), "values": [float(str(x)) for x in v]}
        raw = np.ascontiguousarray(table_blocks(t, rng))
        v = values_of(t, raw, lib)
        assert np.isfinite(v).all()
        out["tables"][t.name] = {"number": int(t), "n": v.size, "bytes": raw.tobytes().hex(), "fnv1a": fnv1a(v.tobytes())}
        print(f"{t.name:8} {v.size} values of {raw.shape[0]} blocks, {np.unique(np.abs(v)).size} magnitudes")
    OUT.write_text(json.dumps(out) + "\n")


main()
