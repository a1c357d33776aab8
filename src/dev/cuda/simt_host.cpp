/* The scheduler of simt_host.h. Owns the fibers' stacks and shared memory, mapped once and kept;
 * all of it belongs to the thread that launches. Linux. */
#include "dev/cuda/simt_host.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__)
#define WITH_TSAN 1
extern "C" {
void *__tsan_get_current_fiber(void);
void *__tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
}
#else
#define WITH_TSAN 0
#endif
#define PLAIN __attribute__((no_sanitize("thread", "address")))

namespace
{

enum { MAX_THREAD = 512, STACK = 64 << 10, GUARD = 4096, MAX_WORDS = 12, MAX_MEM = 256 << 10 };
enum { MAX_COPY = 64, MAX_PRODUCT = 8 };
enum wait_for { RUNS, BLOCK, WARP, BAR, ENDED };

/* Of sp_simt_product, put off until it is waited for. */
struct product {
    float *acc;
    const char *a, *b;
    unsigned n;
    bool add;
};

/* A copy into shared memory that nobody has waited for yet. */
struct bulk {
    void *to, *bar;
    const void *from;
    size_t n_bytes;
};

/* What lies in the 8 bytes of a barrier: arrivals and bytes that its phase still waits for. */
struct bar_state {
    uint16_t left, count : 15, phase : 1;
    int32_t bytes;
};

struct fiber {
    void *sp;
    char *stack;
    void *tsan;
    wait_for wait;
    int line;
    const char *file;
    unsigned n_exchange, n_block, n_warp, n_product;
    product late[MAX_PRODUCT];
};

struct simulator {
    fiber thread[MAX_THREAD];
    void *main_sp, *main_tsan;
    fiber *now;
    sp_simt_body *body;
    const void *args;
    unsigned n_thread, n_x, n_y;
    char *mem; /* of the block, before a guard page */
    uint32_t word[MAX_THREAD / 32][2][32 * MAX_WORDS];
    unsigned order[MAX_THREAD];
    bulk copy[MAX_COPY];
    unsigned n_copy, n_event; /* an event: what threads that wait at a barrier may wait for */
    char sync[2], warp[MAX_THREAD / 32][2], edge; /* addresses that stand for barriers */
};

thread_local simulator *sim;
unsigned seed;

uint32_t next_random(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*s >> 33);
}

/* A permutation of 0..n-1. */
PLAIN void set_order(unsigned *order, unsigned n, unsigned turn)
{
    uint64_t s = seed * 977u + turn;
    for (unsigned i = 0; i < n; i++)
        order[i] = seed == 1 ? n - 1 - i : i;
    for (unsigned i = n; seed > 1 && i > 1; i--) {
        unsigned j = next_random(&s) % i, was = order[i - 1];
        order[i - 1] = order[j];
        order[j] = was;
    }
}

PLAIN void stop(const char *why, const fiber *a, const fiber *b)
{
    fprintf(stderr, "simt: %s: thread %ld at %s:%d", why, (long)(a - sim->thread),
            a->file ? a->file : "?", a->line);
    if (b)
        fprintf(stderr, ", thread %ld at %s:%d", (long)(b - sim->thread), b->file ? b->file : "?",
                b->line);
    fputc('\n', stderr);
    __builtin_trap();
}

} // namespace

thread_local sp_simt_at sp_simt_now;

/* Saves the callee's registers on the stack and goes on where the other stack was left. */
extern "C" void sp_simt_switch(void **from, void *to);
#if defined(__x86_64__)
asm(".text\n.globl sp_simt_switch\n.hidden sp_simt_switch\n.type "
    "sp_simt_switch,@function\nsp_simt_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n.size "
    "sp_simt_switch,.-sp_simt_switch\n");
enum { SAVED = 6 }; /* words below the address to return to */
#elif defined(__aarch64__)
asm(".text\n.globl sp_simt_switch\n.hidden sp_simt_switch\n.type "
    "sp_simt_switch,%function\nsp_simt_switch:\n"
    "sub sp,sp,#160\nstp x19,x20,[sp]\nstp x21,x22,[sp,#16]\nstp x23,x24,[sp,#32]\nstp "
    "x25,x26,[sp,#48]\nstp x27,x28,[sp,#64]\n"
    "stp x29,x30,[sp,#80]\nstp d8,d9,[sp,#96]\nstp d10,d11,[sp,#112]\nstp d12,d13,[sp,#128]\nstp "
    "d14,d15,[sp,#144]\n"
    "mov x9,sp\nstr x9,[x0]\nmov sp,x1\n"
    "ldp x19,x20,[sp]\nldp x21,x22,[sp,#16]\nldp x23,x24,[sp,#32]\nldp x25,x26,[sp,#48]\nldp "
    "x27,x28,[sp,#64]\n"
    "ldp x29,x30,[sp,#80]\nldp d8,d9,[sp,#96]\nldp d10,d11,[sp,#112]\nldp d12,d13,[sp,#128]\nldp "
    "d14,d15,[sp,#144]\n"
    "add sp,sp,#160\nret\n.size sp_simt_switch,.-sp_simt_switch\n");
#else
#error "a switch of stacks for this machine"
#endif

namespace
{

PLAIN void to_main(void)
{
    fiber *f = sim->now;
#if WITH_TSAN
    __tsan_switch_to_fiber(sim->main_tsan, 1);
#endif
    sp_simt_switch(&f->sp, sim->main_sp);
}

PLAIN void run_thread(void)
{
    for (;;) {
#if WITH_TSAN
        __tsan_acquire(&sim->edge);
#endif
        sim->body(sim->args);
#if WITH_TSAN
        __tsan_release(&sim->edge);
#endif
        sim->now->wait = ENDED;
        to_main();
    }
}

PLAIN void resume(unsigned i)
{
    fiber *f = sim->now = &sim->thread[i];
    sp_simt_now.thread = i;
#if WITH_TSAN
    __tsan_switch_to_fiber(f->tsan, 1);
#endif
    sp_simt_switch(&sim->main_sp, f->sp);
}

void *map_pages(size_t n_bytes)
{
    void *p = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        perror("simt: mmap");
        __builtin_trap();
    }
    return p;
}

PLAIN void make_fiber(fiber *f)
{
    f->stack = static_cast<char *>(map_pages(STACK + GUARD));
    mprotect(f->stack, GUARD, PROT_NONE);
#if WITH_TSAN
    f->tsan = __tsan_create_fiber(0);
#endif
    uintptr_t top = ((uintptr_t)f->stack + GUARD + STACK) & ~(uintptr_t)63;
#if defined(__x86_64__)
    void **sp = (void **)top;
    *--sp = NULL; /* as if called */
    *--sp = (void *)run_thread;
    sp -= SAVED;
    memset(sp, 0, SAVED * sizeof *sp);
#else
    void **sp = (void **)(top - 160);
    memset(sp, 0, 160);
    sp[11] = (void *)run_thread; /* x30 */
#endif
    f->sp = sp;
}

PLAIN simulator *get(void)
{
    if (!sim) {
        sim = static_cast<simulator *>(map_pages(sizeof *sim));
        char *mem = static_cast<char *>(map_pages(MAX_MEM + GUARD));
        mprotect(mem + MAX_MEM, GUARD, PROT_NONE);
        sim->mem = mem + MAX_MEM;
#if WITH_TSAN
        sim->main_tsan = __tsan_get_current_fiber();
#endif
    }
    return sim;
}

/* Runs a warp until its threads wait for the block or a barrier, or have ended. */
PLAIN void run_warp(unsigned first, const unsigned *order)
{
    for (;;) {
        fiber *waits = NULL;
        unsigned n_wait = 0, n_bar = 0;
        for (unsigned i = 0; i < 32; i++) {
            fiber *f = &sim->thread[first + order[i]];
            if (f->wait == RUNS)
                resume(first + order[i]);
            n_bar += f->wait == BAR;
            if (f->wait == WARP) {
                if (waits && (waits->line != f->line || waits->file != f->file))
                    stop("a warp waits at two places", waits, f);
                waits = f;
                n_wait++;
            }
        }
        if (!n_wait || n_bar)
            return;
        for (unsigned i = 0; i < 32; i++) {
            fiber *f = &sim->thread[first + i];
            if (f->wait != WARP)
                stop("a warp waits for a thread that is elsewhere", waits, f);
            f->wait = RUNS;
        }
    }
}

/* Lets threads that wait at barriers look again; false: there are none. Two rounds in which nothing
 * happens are a wait that never ends. */
PLAIN bool look_again(unsigned *n_idle, unsigned n_before)
{
    fiber *waits = NULL;
    for (unsigned i = 0; i < sim->n_thread; i++)
        if (sim->thread[i].wait == BAR) {
            waits = &sim->thread[i];
            waits->wait = RUNS;
        }
    *n_idle = sim->n_event == n_before ? *n_idle + 1 : 0;
    if (waits && *n_idle == 2)
        stop("a barrier that is never reached", waits, NULL);
    return waits;
}

PLAIN void run_block(unsigned turn)
{
    unsigned n_idle = 0;
    sim->n_copy = 0;
    for (unsigned i = 0; i < sim->n_thread; i++)
        sim->thread[i].n_product = 0;
    unsigned n_warp = sim->n_thread / 32, warps[MAX_THREAD / 32], lanes[32];
    for (unsigned i = 0; i < sim->n_thread; i++)
        sim->thread[i].wait = RUNS;
    for (unsigned phase = 0;; phase++) {
        set_order(warps, n_warp, turn * 31 + phase);
        set_order(lanes, 32, turn * 37 + phase);
        unsigned n_event = sim->n_event;
        for (unsigned w = 0; w < n_warp; w++)
            run_warp(warps[w] * 32, lanes);
        if (look_again(&n_idle, n_event))
            continue;
        n_idle = 0;
        fiber *waits = NULL, *ended = NULL;
        for (unsigned i = 0; i < sim->n_thread; i++) {
            fiber *f = &sim->thread[i];
            if (f->wait == ENDED) {
                ended = f;
                continue;
            }
            if (waits && (waits->line != f->line || waits->file != f->file))
                stop("a block waits at two places", waits, f);
            waits = f;
        }
        if (!waits)
            return;
        if (ended)
            stop("a block waits for a thread that has ended", waits, ended);
        for (unsigned i = 0; i < sim->n_thread; i++)
            sim->thread[i].wait = RUNS;
    }
}

PLAIN void wait_for_others(wait_for what, int line, const char *file)
{
    fiber *f = sim->now;
    f->wait = what;
    f->line = line;
    f->file = file;
    to_main();
}

} // namespace

extern "C" int sp_simt_major(void)
{
    const char *given = getenv("SPARING_SIMT_MAJOR");
    return given ? atoi(given) : 9;
}

extern "C" void sp_simt_order(unsigned s)
{
    seed = s;
}

extern "C" int sp_simt_fault_now(enum sp_simt_fault which)
{
    const char *path = getenv(which == SP_SIMT_FULL ? "SPARING_SIMT_FULL" : "SPARING_SIMT_LOST");
    return path && access(path, F_OK) == 0 ? which : 0;
}

extern "C" PLAIN void sp_simt_block_wait(int line, const char *file)
{
    fiber *f = sim->now;
#if WITH_TSAN
    char *at = &sim->sync[f->n_block++ % 2];
    __tsan_release(at);
#endif
    wait_for_others(BLOCK, line, file);
#if WITH_TSAN
    __tsan_acquire(at);
#else
    (void)f;
#endif
}

extern "C" PLAIN void sp_simt_warp_wait(int line, const char *file)
{
    fiber *f = sim->now;
#if WITH_TSAN
    char *at = &sim->warp[sp_simt_now.thread / 32][f->n_warp++ % 2];
    __tsan_release(at);
#endif
    wait_for_others(WARP, line, file);
#if WITH_TSAN
    __tsan_acquire(at);
#else
    (void)f;
#endif
}

extern "C" PLAIN const uint32_t *sp_simt_exchange(const uint32_t *word, unsigned n, int line,
                                                  const char *file)
{
    fiber *f = sim->now;
    uint32_t volatile *all = sim->word[sp_simt_now.thread / 32][f->n_exchange++ % 2];
    unsigned at = sp_simt_now.thread % 32 * n;
    for (unsigned i = 0; i < n; i++)
        all[at + i] = word[i];
    wait_for_others(WARP, line, file);
    return const_cast<const uint32_t *>(all);
}

namespace
{

PLAIN bar_state *state_of(void *bar)
{
    if ((uintptr_t)bar % sizeof(bar_state))
        stop("a barrier that is not aligned", sim->now, NULL);
    return static_cast<bar_state *>(bar);
}

PLAIN void end_phase(bar_state *b)
{
    sim->n_event++;
    if (b->left || b->bytes)
        return;
    b->left = b->count;
    b->phase ^= 1;
}

/* The copies that this barrier counts become what they are. */
PLAIN void finish_copies(void *bar)
{
    unsigned n = 0;
    for (unsigned i = 0; i < sim->n_copy; i++) {
        const bulk c = sim->copy[i];
        if (c.bar != bar) {
            sim->copy[n++] = c;
            continue;
        }
        for (size_t e = 0; e < c.n_bytes; e++)
            static_cast<char volatile *>(c.to)[e] = static_cast<const char *>(c.from)[e];
        state_of(bar)->bytes -= (int32_t)c.n_bytes;
        end_phase(state_of(bar));
    }
    sim->n_copy = n;
}

PLAIN float e4m3_value(unsigned c)
{
    unsigned e = c >> 3 & 15, m = c & 7;
    float v = (c & 127) == 127 ? NAN
              : e              ? ldexpf((float)(8 + m), (int)e - 10)
                               : ldexpf((float)m, -9);
    return c & 128 ? -v : v;
}

/* Byte k of row r of rows of 128 bytes whose 16-byte units are exchanged by the row's number. */
PLAIN uint8_t swizzled(const char *tile, unsigned r, unsigned k)
{
    uintptr_t at = (uintptr_t)tile + 128 * r + k;
    return *(const uint8_t volatile *)(at ^ (at >> 7 & 7) << 4);
}

PLAIN void run_product(const product *p)
{
    static float value[256];
    if (value[1] == 0)
        for (unsigned i = 0; i < 256; i++)
            value[i] = e4m3_value(i);
    unsigned lane = sp_simt_now.thread % 32, row = sp_simt_now.thread % 128 / 32 * 16 + lane / 4;
    for (unsigned i = 0; i < p->n / 2; i++) {
        unsigned r = row + i % 4 / 2 * 8, col = i / 4 * 8 + lane % 4 * 2 + i % 2;
        float sum = p->add ? p->acc[i] : 0;
        for (unsigned k = 0; k < 32; k++)
            sum += value[swizzled(p->a, r, k)] * value[swizzled(p->b, col, k)];
        p->acc[i] = sum;
    }
}

} // namespace

extern "C" PLAIN void sp_simt_bar_init(void *bar, unsigned n)
{
    bar_state *b = state_of(bar);
    *b = bar_state();
    b->left = (uint16_t)n;
    b->count = n & 0x7fff;
}

extern "C" PLAIN void sp_simt_bar_arrive(void *bar, unsigned n_bytes)
{
    bar_state *b = state_of(bar);
#if WITH_TSAN
    __tsan_release(bar);
#endif
    if (!b->left)
        stop("one arrival too many", sim->now, NULL);
    b->bytes += (int32_t)n_bytes;
    b->left--;
    end_phase(b);
}

extern "C" PLAIN void sp_simt_bar_wait(void *bar, unsigned phase, int line, const char *file)
{
    bar_state *b = state_of(bar);
    for (finish_copies(bar); b->phase == phase; finish_copies(bar))
        wait_for_others(BAR, line, file);
#if WITH_TSAN
    __tsan_acquire(bar);
#endif
}

extern "C" PLAIN void sp_simt_bulk(void *to, const void *from, size_t n_bytes, void *bar)
{
    if (((uintptr_t)to | (uintptr_t)from | n_bytes) % 16)
        stop("a copy that is not aligned to 16 bytes", sim->now, NULL);
    if (sim->n_copy == MAX_COPY)
        stop("more copies than there is room for", sim->now, NULL);
    for (size_t i = 0; i < n_bytes; i++)
        static_cast<char volatile *>(to)[i] = (char)0xff;
    sim->copy[sim->n_copy++] = {to, bar, from, n_bytes};
}

extern "C" PLAIN void sp_simt_product(float *acc, const void *a, const void *b, unsigned n,
                                      bool add)
{
    fiber *f = sim->now;
    if (((uintptr_t)a | (uintptr_t)b) & 0x39f)
        stop("a tile that is not aligned to 1024 bytes", f, NULL);
    if (f->n_product == MAX_PRODUCT)
        stop("more products than there is room for", f, NULL);
    for (unsigned i = 0; i < n / 2 && !add; i++)
        acc[i] = NAN;
    f->late[f->n_product++] = {acc, static_cast<const char *>(a), static_cast<const char *>(b), n,
                               add};
}

extern "C" PLAIN void sp_simt_product_wait(void)
{
    fiber *f = sim->now;
    for (unsigned i = 0; i < f->n_product; i++)
        run_product(&f->late[i]);
    f->n_product = 0;
}

extern "C" PLAIN void sp_simt_launch(sp_simt_body *body, const void *args, unsigned n_thread,
                                     unsigned n_x, unsigned n_y, size_t shared_bytes)
{
    simulator *s = get();
    if (n_thread > MAX_THREAD || shared_bytes > MAX_MEM || shared_bytes % 16 || s->body) {
        fprintf(stderr, "simt: a launch of %u threads and %zu bytes\n", n_thread, shared_bytes);
        __builtin_trap();
    }
    s->body = body;
    s->args = args;
    s->n_thread = n_thread;
    for (unsigned i = 0; i < n_thread; i++)
        if (!s->thread[i].stack)
            make_fiber(&s->thread[i]);
    for (unsigned i = 0; i < n_thread; i++)
        s->thread[i].n_exchange = s->thread[i].n_block = s->thread[i].n_warp = 0;
    for (unsigned b = 0; b < n_x * n_y; b++) {
        unsigned at = seed == 1 ? n_x * n_y - 1 - b : seed ? (b + seed) % (n_x * n_y) : b;
        sp_simt_now.x = at % n_x;
        sp_simt_now.y = at / n_x;
        sp_simt_now.mem = s->mem - shared_bytes;
        for (size_t i = 0; i < shared_bytes; i++)
            ((char volatile *)sp_simt_now.mem)[i] = (char)0xff;
#if WITH_TSAN
        __tsan_release(&s->edge);
#endif
        run_block(at);
#if WITH_TSAN
        __tsan_acquire(&s->edge);
#endif
    }
    s->body = NULL;
}
