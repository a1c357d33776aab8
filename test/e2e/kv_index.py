"""A gateway's index of which server has which prefix, fed by KV events as vLLM publishes them: what a picker keeps, in a few lines."""
import struct

import msgpack
import zmq

END = 2**64 - 1


def chain(ids, size, salt=None):
    """Keys of the whole blocks of a prompt, from tokens alone: whoever has seen the same events has the same keys."""
    out, at = [], salt
    for i in range(len(ids) // size):
        at = hash((at, tuple(ids[i * size : (i + 1) * size])))
        out.append(at)
    return out


class Index:
    """Of one server. live: its PUB endpoint; replay: its ROUTER endpoint, asked at the beginning and at gaps."""

    def __init__(self, live, replay=None):
        self.context = zmq.Context()
        self.sub = self.context.socket(zmq.SUB)
        self.sub.setsockopt(zmq.SUBSCRIBE, b"kv@")
        self.sub.connect(live)
        self.replay = replay
        self.next = None  # sequence that comes next
        self.of = {}  # the server's hash: our key
        self.count = {}  # our key: how many of the server's hashes have it
        self.topics, self.events, self.messages, self.gaps, self.batches = set(), [], 0, 0, []

    def close(self):
        self.context.destroy(linger=0)

    def forget(self):
        self.of.clear()
        self.count.clear()

    def take(self, topic, payload):
        ts, events, rank = msgpack.unpackb(payload)
        assert isinstance(ts, float) and rank is None
        self.topics.add(topic.decode())
        self.messages += 1
        for e in events:
            self.events.append(e)
            if e[0] == "AllBlocksCleared":
                self.forget()
            elif e[0] == "BlockRemoved":
                for h in e[1]:
                    key = self.of.pop(h, None)
                    if key is not None:
                        self.count[key] -= 1
            else:
                assert e[0] == "BlockStored" and len(e) == 12, e
                _, hashes, parent, ids, size, *_, extra, group, kind, window = e
                assert len(hashes) == 1 and len(ids) == size == 32 and group == 0
                assert (kind, window) == ("full_attention", None) or (kind == "sliding_window" and window > 0)
                # the parent may be gone already: then nothing can be told of this block's prefix
                before = (extra[0][0] if extra else None) if parent is None else self.of.get(parent, ("unknown", parent))
                key = hash((before, tuple(ids)))
                if hashes[0] not in self.of:
                    self.of[hashes[0]] = key
                    self.count[key] = self.count.get(key, 0) + 1

    def ask_again(self, start):
        dealer = self.context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.RCVTIMEO, 600_000)
        dealer.connect(self.replay)
        dealer.send_multipart([b"", struct.pack(">Q", start)])
        while True:
            empty, topic, seq, payload = dealer.recv_multipart()
            seq = struct.unpack(">Q", seq)[0]
            if seq == END and not payload:
                break
            assert seq == start, (seq, start)
            self.take(topic, payload)
            start += 1
        self.next = start
        dealer.close(linger=0)

    def poll(self, wait_ms=0):
        """Takes in what has come."""
        if self.next is None and self.replay:
            self.ask_again(0)
        while self.sub.poll(wait_ms):
            topic, seq, payload = self.sub.recv_multipart()
            seq = struct.unpack(">Q", seq)[0]
            if self.next is not None and seq < self.next:
                continue
            if self.next is not None and seq > self.next:
                self.gaps += 1
                if self.replay:
                    self.ask_again(self.next)
                    continue
            self.take(topic, payload)
            self.next = seq + 1

    def known(self, keys):
        n = 0
        while n < len(keys) and self.count.get(keys[n], 0) > 0:
            n += 1
        return n
