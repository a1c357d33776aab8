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
enum wait_for { RUNS, BLOCK, WARP, ENDED };

struct fiber {
    void *sp;
    char *stack;
    void *tsan;
    wait_for wait;
    int line;
    const char *file;
    unsigned n_exchange, n_block, n_warp;
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

/* Runs a warp until its threads wait for the block or have ended. */
PLAIN void run_warp(unsigned first, const unsigned *order)
{
    for (;;) {
        fiber *waits = NULL;
        unsigned n_wait = 0;
        for (unsigned i = 0; i < 32; i++) {
            fiber *f = &sim->thread[first + order[i]];
            if (f->wait == RUNS)
                resume(first + order[i]);
            if (f->wait == WARP) {
                if (waits && (waits->line != f->line || waits->file != f->file))
                    stop("a warp waits at two places", waits, f);
                waits = f;
                n_wait++;
            }
        }
        if (!n_wait)
            return;
        for (unsigned i = 0; i < 32; i++) {
            fiber *f = &sim->thread[first + i];
            if (f->wait != WARP)
                stop("a warp waits for a thread that is elsewhere", waits, f);
            f->wait = RUNS;
        }
    }
}

PLAIN void run_block(unsigned turn)
{
    unsigned n_warp = sim->n_thread / 32, warps[MAX_THREAD / 32], lanes[32];
    for (unsigned i = 0; i < sim->n_thread; i++)
        sim->thread[i].wait = RUNS;
    for (unsigned phase = 0;; phase++) {
        set_order(warps, n_warp, turn * 31 + phase);
        set_order(lanes, 32, turn * 37 + phase);
        for (unsigned w = 0; w < n_warp; w++)
            run_warp(warps[w] * 32, lanes);
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
