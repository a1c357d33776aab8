/* Events against a naive list: what a subscriber holds in the end is what the source holds, whatever was dropped in between. */
#include "test.h"

#include "net/events.h"

#include <msgpack.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

enum { HASHES = 600, CAP = 400 };

static uint64_t hash_of(size_t i)
{
    return (uint64_t)(i % 7) << 3 | (uint64_t)i << 40; /* many share a slot */
}

typedef struct heard {
    bool held[HASHES];
    size_t n_cleared;
    uint64_t next;
} heard;

static size_t index_of(uint64_t hash)
{
    return (size_t)(hash >> 40);
}

static void take(heard *h, const void *p, size_t n)
{
    msgpack_unpacked u;
    msgpack_unpacked_init(&u);
    assert_int_equal(msgpack_unpack_next(&u, p, n, NULL), MSGPACK_UNPACK_SUCCESS);
    const msgpack_object_array *all = &u.data.via.array.ptr[1].via.array;
    for (size_t i = 0; i < all->size; i++) {
        const msgpack_object *e = all->ptr[i].via.array.ptr;
        if (e[0].via.str.size == 16) {
            memset(h->held, 0, sizeof h->held);
            h->n_cleared++;
        } else {
            h->held[index_of(e[1].via.array.ptr[0].via.u64)] = memcmp(e[0].via.str.ptr, "BlockStored", 11) == 0;
        }
    }
    msgpack_unpacked_destroy(&u);
}

static bool receive(void *socket, size_t n_part, uint64_t *seq, heard *h)
{
    zmq_msg_t m;
    uint8_t number[8];
    for (size_t i = 0; i + 2 < n_part; i++) {
        zmq_msg_init(&m);
        if (zmq_msg_recv(&m, socket, 0) < 0)
            return false;
        zmq_msg_close(&m);
    }
    assert_int_equal(zmq_recv(socket, number, 8, 0), 8);
    *seq = 0;
    for (int i = 0; i < 8; i++)
        *seq = *seq << 8 | number[i];
    zmq_msg_init(&m);
    assert_true(zmq_msg_recv(&m, socket, 0) >= 0);
    if (zmq_msg_size(&m))
        take(h, zmq_msg_data(&m), zmq_msg_size(&m));
    zmq_msg_close(&m);
    return true;
}

/* Asks for all messages from a number on, as one that comes late does. */
static void ask(heard *h, void *zmq, const char *endpoint, uint64_t from)
{
    void *s = zmq_socket(zmq, ZMQ_DEALER);
    uint8_t number[8];
    uint64_t seq = 0;
    for (int i = 0; i < 8; i++)
        number[i] = (uint8_t)(from >> (56 - 8 * i));
    assert_int_equal(zmq_connect(s, endpoint), 0);
    assert_int_equal(zmq_send(s, "", 0, ZMQ_SNDMORE), 0);
    assert_int_equal(zmq_send(s, number, 8, 0), 8);
    for (; receive(s, 4, &seq, h) && seq != UINT64_MAX; from++)
        assert_true(seq == from);
    h->next = from;
    zmq_close(s);
}

static void change(sp_events_source *s, bool *held, size_t *n_held, uint64_t *rnd)
{
    uint32_t tok[SP_EVENTS_TOK] = {0};
    size_t i = test_rand(rnd) % HASHES;
    if (held[i]) {
        sp_events_removed(s, hash_of(i));
        held[i] = false;
        --*n_held;
    } else if (*n_held < CAP) {
        sp_events_stored(s, &(sp_events_block){.hash = hash_of(i), .first = i % 3 == 0, .parent = 1, .tok = tok, .salt = i % 9 == 0 ? "salt" : NULL});
        held[i] = true;
        ++*n_held;
    }
}

static void test_late_subscribers_hold_the_same(void **state)
{
    (void)state;
    static bool held[HASHES];
    size_t n_held = 0;
    uint64_t rnd = 5;
    char live[128], replay[128];
    sp_events *e;
    sp_events_source *s;
    sp_diag d = {0};
    assert_int_equal(sp_events_new(&e, &(sp_events_cfg){"tcp://127.0.0.1:*", "tcp://127.0.0.1:*", NULL}, &d), SP_OK);
    sp_events_endpoints(e, live, replay);
    assert_int_equal(sp_events_add(&s, e, "m", CAP, 0), SP_OK);
    for (int i = 0; i < 20000; i++) /* before anybody listens: more than the queue holds */
        change(s, held, &n_held, &rnd);
    assert_int_equal(sp_events_start(e, "h:1", &d), SP_OK);
    void *zmq = zmq_ctx_new();
    static heard h;
    for (int round = 0; round < 30; round++) {
        for (int i = 0; i < 400; i++)
            change(s, held, &n_held, &rnd);
        heard now = {0};
        do { /* until the thread has told it all */
            memset(&now, 0, sizeof now);
            ask(&now, zmq, replay, 0);
        } while (memcmp(now.held, held, sizeof held) != 0);
        ask(&h, zmq, replay, h.next); /* one that goes on where it was */
        while (memcmp(h.held, held, sizeof held) != 0)
            ask(&h, zmq, replay, h.next);
        assert_true(h.n_cleared >= 1 && h.next == now.next);
    }
    sp_events_remove(s);
    do
        ask(&h, zmq, replay, h.next);
    while (memchr(h.held, 1, sizeof h.held));
    sp_events_free(e);
    zmq_ctx_term(zmq);
}

/* What is no request is not answered, and the next one is. */
static void test_garbage_on_the_replay_socket(void **state)
{
    (void)state;
    char live[128], replay[128], many[600] = {0};
    sp_events *e;
    sp_events_source *s;
    sp_diag d = {0};
    assert_int_equal(sp_events_new(&e, &(sp_events_cfg){"tcp://127.0.0.1:*", "tcp://127.0.0.1:*", NULL}, &d), SP_OK);
    sp_events_endpoints(e, live, replay);
    assert_int_equal(sp_events_add(&s, e, "m", CAP, 128), SP_OK);
    assert_int_equal(sp_events_start(e, "h:1", &d), SP_OK);
    void *zmq = zmq_ctx_new(), *bad = zmq_socket(zmq, ZMQ_DEALER);
    const int linger = 0;
    zmq_setsockopt(bad, ZMQ_LINGER, &linger, sizeof linger);
    assert_int_equal(zmq_connect(bad, replay), 0);
    for (size_t n = 0; n < sizeof many; n += 37) {
        assert_true(zmq_send(bad, many, n, 0) >= 0);
        assert_true(zmq_send(bad, many, 0, ZMQ_SNDMORE) >= 0 && zmq_send(bad, many, n, ZMQ_SNDMORE) >= 0 && zmq_send(bad, many, n, 0) >= 0);
    }
    heard h = {0};
    do
        ask(&h, zmq, replay, 0);
    while (h.n_cleared == 0);
    zmq_close(bad);
    sp_events_remove(s);
    sp_events_free(e);
    zmq_ctx_term(zmq);
}

const struct CMUnitTest net_events_tests[] = {cmocka_unit_test(test_late_subscribers_hold_the_same), cmocka_unit_test(test_garbage_on_the_replay_socket)};
const size_t n_net_events_tests = sizeof net_events_tests / sizeof net_events_tests[0];
