"""GGUF files taken apart and put together again with something changed, for tests of loading."""
import copy
import struct

SIZES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STR, ARRAY, ALIGN = 8, 9, 32


class Gguf:
    """keys: {name: (type, value)}; tensors: {name: (dims, type, bytes)}, dims with the contiguous one first."""

    def __init__(self, path):
        self.b, self.at, self.keys, self.tensors = path.read_bytes(), 8, {}, {}
        n_tensor, n_key = self.num("Q"), self.num("Q")
        for _ in range(n_key):
            name, kind = self.string(), self.num("I")
            self.keys[name] = (kind, self.value(kind))
        infos = []
        for _ in range(n_tensor):
            name, dims = self.string(), [self.num("Q") for _ in range(self.num("I"))]
            infos.append((name, dims, self.num("I"), self.num("Q")))
        data = (self.at + ALIGN - 1) // ALIGN * ALIGN
        ends = sorted(i[3] for i in infos) + [len(self.b) - data]
        for name, dims, kind, offset in infos:
            self.tensors[name] = (dims, kind, self.b[data + offset:data + ends[ends.index(offset) + 1]])

    def num(self, code):
        v, = struct.unpack_from("<" + code, self.b, self.at)
        self.at += struct.calcsize("<" + code)
        return v

    def string(self):
        n = self.num("Q")
        self.at += n
        return self.b[self.at - n:self.at].decode()

    def value(self, kind):
        if kind == STR:
            return self.string()
        if kind == ARRAY:
            elem, n = self.num("I"), self.num("Q")
            return elem, [self.value(elem) for _ in range(n)]
        return self.num(SIZES[kind])

    def write(self, path):
        def put(kind, v):
            if kind == STR:
                return struct.pack("<Q", len(v.encode())) + v.encode()
            if kind == ARRAY:
                return struct.pack("<IQ", v[0], len(v[1])) + b"".join(put(v[0], x) for x in v[1])
            return struct.pack("<" + SIZES[kind], v)

        head, data, n_data = [b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.keys))], [], 0
        for name, (kind, v) in self.keys.items():
            head += [put(STR, name), struct.pack("<I", kind), put(kind, v)]
        for name, (dims, kind, raw) in self.tensors.items():
            head += [put(STR, name), struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, n_data)]
            data += [raw, b"\0" * (-len(raw) % ALIGN)]
            n_data += len(raw) + -len(raw) % ALIGN
        head = b"".join(head)
        with open(path, "wb") as f:
            f.writelines([head, b"\0" * (-len(head) % ALIGN), *data])
        return path

    def split(self, folder, stem, n, change=None):
        """The same model in n parts, tensors in turn, as llama-gguf-split names them. change(no, part) may change a part. Their paths."""
        paths, names = [], list(self.tensors)
        for no in range(n):
            part = copy.copy(self)
            part.keys = dict(self.keys) if no == 0 else {}
            part.keys.update({"split.no": (2, no), "split.count": (2, n), "split.tensors.count": (5, len(names))})
            part.tensors = {t: self.tensors[t] for t in names[no * len(names) // n:(no + 1) * len(names) // n]}
            if change:
                change(no, part)
            paths.append(part.write(folder / f"{stem}-{no + 1:05}-of-{n:05}.gguf"))
        return paths


def first_layers(model, out, n, n_ctx=None):
    """The model with its first n layers alone, for tests that need its prompts and not its wit; n_ctx: another context. Gives out.
    What a layer keeps of a token depends on the tokens before it from the second layer on."""
    g = Gguf(model)
    arch = g.keys["general.architecture"][1]
    g.keys[f"{arch}.block_count"] = (4, n)
    if n_ctx:
        g.keys[f"{arch}.context_length"] = (4, n_ctx)
    kept = tuple(f"blk.{i}." for i in range(n))
    g.tensors = {name: t for name, t in g.tensors.items() if not name.startswith("blk.") or name.startswith(kept)}
    return g.write(out)


def one_layer(model, out, n_ctx=None):
    return first_layers(model, out, 1, n_ctx)
