/* Certified decoding (docs/ATTENTION.md): keys are scanned by their hi planes, a cut is searched
 * under which so little can lie that a query loses less than epsilon, the rows of the keys above it
 * are attended, and what was lost is certified from their exact scores. A query that cannot be
 * certified is left to dense attention (sp_cuda_attn.only). The host is asked nothing in between.
 *
 * A score is what dense attention computes: of queries in f16, by products that round. A tensor
 * core cuts each of the 16 products of a step, and the sum before them, off at 2^-23 of the largest
 * or better (Fasi et al. 2021, Numerical behavior of NVIDIA tensor cores, section 4), and so is the
 * result. So a product of q and codes, which are 128 at most, is off by round_of(d) * |q| at most;
 * an estimate and a score, by twice that. The bounds of a page are widened by as much. */
#include "dev/cuda/flash.h"

namespace
{

enum { FEW = SP_CUDA_FEW, PART = SP_CUDA_PART, CUTS = SP_CUDA_CUTS, KEYS = PART * PAGE_TOK };
enum { LEAST = -40, MOST = 512 }; /* bits: see SP_POW2_LEAST; of scores, and MAX_BITS on the CPU */

#define ROUND_UP 1.0005f /* the roundings of sums, roots and powers */
#define NORM_UP 1.0001f  /* the same of a norm */
#define KEPT_DOWN 0.9999f

/* What a product of q and 8-bit codes, times their scale, is off by, over |q| scale. */
SP_DEV float round_of(unsigned d)
{
    return (1.125f * (float)d + 2) * 0x1p-23f * 128 * sqrtf((float)d);
}

SP_DEV float *raw_of(const sp_cuda_cert &a, unsigned part, unsigned t)
{
    return a.raw + (((size_t)part * a.a.n_head + block_y()) * a.a.group + t) * KEYS;
}
SP_DEV sp_cuda_cert_work &work_of(const sp_cuda_cert &a, unsigned part)
{
    return a.work[(size_t)part * a.a.n_head + block_y()];
}
SP_DEV sp_cuda_cert_head &head_of(const sp_cuda_cert &a, unsigned item)
{
    return a.head[(size_t)item * a.a.n_head + block_y()];
}

/* What a key weighs, in units of 2^max, from above. The search and the rows that are read must see
 * the same bits: what one bounds, the other leaves out. */
SP_DEV float weight_of(float raw, float cap, float max)
{
    return exp2_of(fmaxf(cap_of(raw, cap) - max, (float)LEAST)) * (1 + 0x1p-20f);
}
/* Turns a weight of a part into a share of the attention. */
SP_DEV float share_of(const sp_cuda_cert_head &h, const sp_cuda_cert_work &w, unsigned t)
{
    return exp2_of(w.max[t] - h.top[t]) / h.mass[t];
}

/* Estimates of all keys of a part. */
template <int D> struct scan_kernel {
    enum { THREADS = 32 * WARPS };
    typedef sp_cuda_cert args;
    struct shared {
        query_frag q[D / 16];
        float max[WARPS][FEW], sum[WARPS][FEW], scale[WARPS];
    };

    /* Rows 0..7 are queries: a lane has row lane / 4. */
    SP_DEV void scan_page(const args &a, unsigned part, unsigned i, const query_frag *q,
                          const page_q8 &p, float &max, float &sum)
    {
        float s[4][4], top = max;
        unsigned t = lane_id() / 4;
        float *raw = raw_of(a, part, t) + i % PART * PAGE_TOK + 8 * (lane_id() % 4);
        bool is_scanned = i >= a.part[part].whole;
        score<D, page_q8>(s, q, p);
        for (int k = 0; k < 8; k++) {
            float x = s[k / 2][k % 2];
            if (t < a.a.group)
                raw[k] = x;
            s[k / 2][k % 2] = is_scanned ? cap_of(x, a.a.cap) : minus_inf();
            top = fmaxf(top, s[k / 2][k % 2]);
        }
        top = fmaxf(top, warp_xor(top, 1));
        top = fmaxf(top, warp_xor(top, 2));
        if (top == minus_inf())
            return;
        sum *= exp2_of(max - top);
        for (int k = 0; k < 8; k++)
            sum += exp2_of(s[k / 2][k % 2] - top);
        max = top;
    }
    SP_DEV void run(const args &a)
    {
        shared *sh = reinterpret_cast<shared *>(block_mem());
        const sp_cuda_cert_part it = a.part[block_x()];
        sp_cuda_cert_work &w = work_of(a, block_x());
        float max = minus_inf(), sum = 0, scale = 0;
        load_queries<page_q8, D>(sh->q, a.a, a.item[it.item].row, 0, a.a.group);
        block_sync();
        for (unsigned i = it.from + (warp_id() + WARPS - it.from % WARPS) % WARPS; i < it.to;
             i += WARPS) {
            page_q8 p;
            page_q8::open(p, a.a.tab[it.tab + i], a.a.hi_at + (size_t)block_y() * a.a.hi_bytes, 0,
                          a.a.d);
            p.lo = NULL;
            scan_page(a, block_x(), i, sh->q, p, max, sum);
            float own = page_q8::key_scale(p, lane_id());
            w.scale[i % PART * PAGE_TOK + lane_id()] = own;
            scale = fmaxf(scale, own);
            if (lane_id() < 2)
                w.bound[i % PART][lane_id()] = page_q8::bound(p, lane_id());
        }
        sum += warp_xor(sum, 1);
        sum += warp_xor(sum, 2);
        scale = warp_max(scale);
        if (lane_id() % 4 == 0) {
            sh->max[warp_id()][lane_id() / 4] = max;
            sh->sum[warp_id()][lane_id() / 4] = sum;
        }
        if (lane_id() == 0)
            sh->scale[warp_id()] = scale;
        block_sync();
        if (thread_id() < FEW) {
            max = minus_inf();
            sum = 0;
            for (unsigned k = 0; k < WARPS; k++) {
                joint j = join_of(max, sh->max[k][thread_id()]);
                sum = sum * j.keep + sh->sum[k][thread_id()] * j.part;
                max = j.max;
            }
            w.max[thread_id()] = max;
            w.sum[thread_id()] = sum;
        }
        if (thread_id() == 0) {
            for (unsigned k = 1; k < WARPS; k++)
                scale = fmaxf(scale, sh->scale[k]);
            w.scale_max = scale;
        }
    }
};

/* Cuts to look at, from 2^first on. */
SP_DEV void put_cuts(sp_cuda_cert_head &h, float first, float step)
{
    h.first = first;
    h.step = step;
    for (unsigned k = 0; k < CUTS; k++)
        h.cut[k] = exp2_of(first + (float)k * step);
}

/* The search begins around a first guess, as on the CPU. */
SP_DEV void start_search(sp_cuda_cert_head &h, const sp_cuda_cert_item &it)
{
    h.best = 0;
    put_cuts(h, log2f(it.eps / (float)(it.n_page * PAGE_TOK)) - 3.5f, 1.5f);
}

/* What all parts of a query weigh together, its norm, and the first cuts. A warp has a query. */
struct start_kernel {
    enum { THREADS = 32 * WARPS };
    typedef sp_cuda_cert args;
    SP_DEV float norm_of(const args &a, const sp_cuda_cert_item &it, unsigned t)
    {
        size_t head = block_y() * a.a.group + t;
        const uint16_t *q = a.a.qh + ((size_t)it.row * a.a.n_head * a.a.group + head) * a.a.d;
        float sum = 0;
        for (unsigned i = lane_id(); i < a.a.d; i += 32)
            sum += f16_to_f32(q[i]) * f16_to_f32(q[i]);
        return sqrtf(warp_sum(sum)) * NORM_UP;
    }
    SP_DEV void weigh(const args &a, const sp_cuda_cert_item &it, sp_cuda_cert_head &h, unsigned t)
    {
        const float *own = a.a.state + state_at(a.a, it.own, t) + a.a.d;
        float sink = sink_of(a.a, t), top = fmaxf(own[0], sink), mass = 0, scale = 0;
        for (unsigned p = lane_id(); p < it.n_part; p += 32) {
            const sp_cuda_cert_work &w = work_of(a, it.part + p);
            top = fmaxf(top, w.max[t]);
            scale = fmaxf(scale, w.scale_max);
        }
        top = warp_max(top);
        for (unsigned p = lane_id(); p < it.n_part; p += 32) {
            const sp_cuda_cert_work &w = work_of(a, it.part + p);
            mass += w.sum[t] * exp2_of(w.max[t] - top);
        }
        mass = warp_sum(mass) + own[1] * exp2_of(own[0] - top) + exp2_of(sink - top);
        scale = warp_max(scale);
        if (lane_id() == 0) {
            h.top[t] = top;
            h.mass[t] = mass;
            h.scale = scale; /* of all queries the same */
        }
    }
    SP_DEV void run(const args &a)
    {
        const sp_cuda_cert_item it = a.item[block_x()];
        sp_cuda_cert_head &h = head_of(a, block_x());
        for (unsigned t = warp_id(); t < a.a.group; t += WARPS) {
            float norm = norm_of(a, it, t);
            if (lane_id() == 0)
                h.norm[t] = norm;
            weigh(a, it, h, t);
        }
        block_sync();
        if (thread_id())
            return;
        h.loss = 0;
        h.is_dense = h.n_kept = h.n_pair = 0;
        for (unsigned t = 0; t < a.a.group; t++) {
            h.is_dense |=
                !(fabsf(h.top[t]) < (float)MOST); /* ROUND_UP is for scores of sane models */
            h.left[t] = h.kept[t] = 0;
        }
        h.is_open = !h.is_dense;
        start_search(h, it);
    }
};

/* How much keys below each cut can weigh, page by page: ATTENTION.md's bound, in nats. */
struct tail_kernel {
    enum { THREADS = 32 * WARPS, ROW = PART + 1 /* keys of other pages lie side by side */ };
    typedef sp_cuda_cert args;
    struct shared {
        float a[FEW][PAGE_TOK * ROW], rank[PAGE_TOK * ROW], scale[PAGE_TOK * ROW];
        float lin[FEW][PART], quad[FEW][PART], few[FEW][PART];
        float left[CUTS][FEW][PART], about[CUTS][FEW][PART];
    };

    SP_DEV void load(shared *sh, const args &a, const sp_cuda_cert_part &it)
    {
        const sp_cuda_cert_work &w = work_of(a, block_x());
        const sp_cuda_cert_head &h = head_of(a, it.item);
        for (unsigned i = thread_id(); i < KEYS; i += THREADS) {
            unsigned at = i % PAGE_TOK * ROW + i / PAGE_TOK;
            float rank = 0;
            if (it.always >> i / PAGE_TOK & 1)
                continue;
            for (unsigned t = 0; t < a.a.group; t++) {
                float x = weight_of(raw_of(a, block_x(), t)[i], a.a.cap, w.max[t]);
                sh->a[t][at] = x;
                rank = fmaxf(rank, x * share_of(h, w, t));
            }
            sh->rank[at] = rank;
            sh->scale[at] = w.scale[i];
        }
    }
    SP_DEV void load_bound(shared *sh, const args &a, const sp_cuda_cert_part &it, unsigned g,
                           unsigned t)
    {
        const sp_cuda_cert_work &w = work_of(a, block_x());
        if (it.always >> g & 1 || t >= a.a.group)
            return;
        float off = 2 * round_of(a.a.d), err = w.bound[g][0] + off, most = 1e-15f;
        float spec = w.bound[g][1] + off * 5.657f, norm = head_of(a, it.item).norm[t] * 0.69314719f;
        for (unsigned j = 0; j < PAGE_TOK; j++)
            most = fmaxf(most, w.scale[g * PAGE_TOK + j]);
        float b = most * err * norm, few = spec / err;
        float f =
            fmaxf(exp2_of(b * 1.442696f) - (1 + b), 0) + 2e-6f; /* it cancels where b is small */
        sh->lin[t][g] = spec * norm;
        sh->quad[t][g] = f / (most * most);
        sh->few[t][g] = fmaxf(few * few - 1, 0);
    }
    SP_DEV void weigh(shared *sh, const args &a, const sp_cuda_cert_part &it, unsigned g,
                      unsigned t, unsigned k)
    {
        float cut = head_of(a, it.item).cut[k], sum = 0, square = 0, first = 0, second = 0;
        bool is_out = it.always >> g & 1;
        for (unsigned j = 0; j < PAGE_TOK && !is_out; j++) {
            unsigned at = j * ROW + g;
            if (!(sh->rank[at] < cut))
                continue;
            float x = sh->a[t][at], xs = x * sh->scale[at], xss = xs * sh->scale[at];
            sum += x;
            square += xs * xs;
            second = fmaxf(second, fminf(first, xss));
            first = fmaxf(first, xss);
        }
        float most = is_out ? 0 : sum + sh->lin[t][g] * sqrtf(square);
        if (first > 0) /* quad may be infinite */
            most += sh->quad[t][g] * (first + sh->few[t][g] * second);
        sh->left[k][t][g] = most * ROUND_UP;
        sh->about[k][t][g] = sum;
    }
    SP_DEV void run(const args &a)
    {
        shared *sh = reinterpret_cast<shared *>(block_mem());
        const sp_cuda_cert_part it = a.part[block_x()];
        if (!head_of(a, it.item).is_open)
            return;
        load(sh, a, it);
        load_bound(sh, a, it, thread_id() % PART, thread_id() / PART);
        block_sync();
        for (unsigned at = thread_id(); at < PART * a.a.group * CUTS; at += THREADS)
            weigh(sh, a, it, at % PART, at / PART % a.a.group, at / PART / a.a.group);
        block_sync();
        for (unsigned at = thread_id(); at < a.a.group * CUTS; at += THREADS) {
            unsigned t = at % a.a.group, k = at / a.a.group;
            float left = 0, about = 0;
            for (unsigned g = 0; g < PART; g++) {
                left += sh->left[k][t][g];
                about += sh->about[k][t][g];
            }
            work_of(a, block_x()).tail[k][t][0] = left;
            work_of(a, block_x()).tail[k][t][1] = about;
        }
    }
};

/* The largest cut below which little enough lies for all queries; then those around it are looked
 * at, and is_last settles. */
template <bool is_last> struct choose_kernel {
    enum { THREADS = FEW * CUTS };
    typedef sp_cuda_cert args;
    struct shared {
        float left[CUTS][FEW];
        uint32_t fits[CUTS][FEW];
    };

    SP_DEV void weigh(shared *sh, const args &a, unsigned k, unsigned t)
    {
        const sp_cuda_cert_item it = a.item[block_x()];
        const sp_cuda_cert_head &h = head_of(a, block_x());
        float left = 0, about = 0;
        for (unsigned p = it.part; p < it.part + it.n_part; p++) {
            const sp_cuda_cert_work &w = work_of(a, p);
            float unit = exp2_of(w.max[t] - h.top[t]);
            left += unit * w.tail[k][t][0];
            about += unit * w.tail[k][t][1];
        }
        left *= ROUND_UP;
        float kept = h.kept[t] > 0 ? h.kept[t] : h.mass[t] - about;
        sh->left[k][t] = left;
        sh->fits[k][t] = kept > 0 && left <= kept * (it.eps / (1 - it.eps)) * KEPT_DOWN;
    }
    SP_DEV void look_on(sp_cuda_cert_head &h, int best)
    {
        if (best < 0)
            put_cuts(h, h.first - h.step * CUTS, h.step);
        else if (best + 1 == CUTS)
            put_cuts(h, h.first + h.step * CUTS, h.step);
        else
            put_cuts(h, h.first + h.step * ((float)best + 1.0f / (CUTS + 1)), h.step / (CUTS + 1));
    }
    SP_DEV void run(const args &a)
    {
        shared *sh = reinterpret_cast<shared *>(block_mem());
        sp_cuda_cert_head &h = head_of(a, block_x());
        unsigned k = thread_id() / FEW, t = thread_id() % FEW;
        if (!h.is_open)
            return;
        if (t < a.a.group)
            weigh(sh, a, k, t);
        block_sync();
        if (thread_id())
            return;
        int best = -1;
        for (int i = 0; i < CUTS; i++) {
            bool fits = h.cut[i] < 1;
            for (t = 0; t < a.a.group; t++)
                fits = fits && sh->fits[i][t];
            best = fits ? i : best;
        }
        if (best >= 0) {
            h.best = h.cut[best];
            for (t = 0; t < a.a.group; t++)
                h.left[t] = sh->left[best][t];
        }
        if (!is_last)
            look_on(h, best);
        else if (!(h.best > 0)) {
            h.is_dense = 1;
            h.is_open = 0;
        }
    }
};

/* Rows of a page that are kept: their scores are estimates that the lo plane completes. */
struct page_kept : page_q8 {
    enum { HAS_MEAN = 0 };
    uint32_t kept;

    SP_DEV void key(uint32_t b[KS][2], const page_kept &p, unsigned a, unsigned m)
    {
        unsigned w = 4 * m + lane_id() % 4, j = token_of(a);
        bool reads = w < p.d / 8 && p.lo && p.kept >> j & 1;
        uint32_t low = reads ? load_u32(p.lo + j * p.d + 4 * w) : 0;
        for (unsigned h = 0; h < 2; h++, low >>= 4)
            for (unsigned i = 0; i < 2; i++) {
                uint32_t c = low >> 16 * i & 0x0f0fu;
                c = codes_to_f16((c & 0xff) | (c & 0xff00) << 8, 0x64006400u);
                b[h][i] = reads ? f16_add2(c, 0xc780c780u) : 0; /* less 7.5 */
            }
    }
    SP_DEV void val(uint32_t b[VS][4], const page_kept &p, unsigned m)
    {
        val_of(b, p, m, p.kept);
    }
};

/* Attends what is kept of a part. */
template <int D> struct rows_kernel {
    enum { THREADS = 32 * WARPS };
    typedef sp_cuda_cert args;
    struct shared {
        shared_attn<D> attn;
        uint32_t n_kept[WARPS], n_pair[WARPS];
    };

    /* Bit j: token j of page i. */
    SP_DEV uint32_t kept_of(const args &a, const sp_cuda_cert_part &it, unsigned i)
    {
        const sp_cuda_cert_work &w = work_of(a, block_x());
        const sp_cuda_cert_head &h = head_of(a, it.item);
        float rank = 0;
        if (it.always >> i % PART & 1)
            return i * PAGE_TOK < it.seen ? 0xffffffffu << it.seen % PAGE_TOK : 0xffffffffu;
        for (unsigned t = 0; t < a.a.group; t++) {
            float raw = raw_of(a, block_x(), t)[i % PART * PAGE_TOK + lane_id()];
            rank = fmaxf(rank, weight_of(raw, a.a.cap, w.max[t]) * share_of(h, w, t));
        }
        return warp_vote(!(rank < h.best));
    }
    SP_DEV void attend_rows(warp_state<D> &w, const shared *sh, const args &a, unsigned i,
                            const page_kept &p)
    {
        float s[4][4];
        unsigned t = lane_id() / 4;
        const float *raw = raw_of(a, block_x(), t < a.a.group ? t : 0) + i % PART * PAGE_TOK;
        score<D, page_kept>(s, sh->attn.q, p);
        for (int k = 0; k < 4; k++)
            for (int e = 0; e < 4; e++) {
                unsigned tok = 8 * (lane_id() % 4) + 2 * k + e % 2;
                float x = cap_of(s[k][e] + raw[tok], a.a.cap);
                s[k][e] = p.kept >> tok & 1 ? x : minus_inf();
            }
        take<D, page_kept>(w, s, p);
    }
    SP_DEV void run(const args &a)
    {
        shared *sh = reinterpret_cast<shared *>(block_mem());
        const sp_cuda_cert_part it = a.part[block_x()];
        uint32_t n_kept = 0, n_pair = 0;
        warp_state<D> w;
        if (!head_of(a, it.item).is_open)
            return;
        load_queries<page_q8, D>(sh->attn.q, a.a, a.item[it.item].row, 0, a.a.group);
        start_rows(&sh->attn, a.a, false, 0, a.a.group);
        block_sync();
        clear(w);
        for (unsigned i = it.from + (warp_id() + WARPS - it.from % WARPS) % WARPS; i < it.to;
             i += WARPS) {
            page_kept p;
            page_q8::open(p, a.a.tab[it.tab + i], a.a.hi_at + (size_t)block_y() * a.a.hi_bytes,
                          a.a.lo_at + (size_t)block_y() * a.a.lo_bytes, a.a.d);
            p.kept = kept_of(a, it, i);
            if (i >= it.whole) {
                n_kept += bit_count(p.kept);
                n_pair += bit_count((p.kept | p.kept >> 1) & 0x55555555u);
            }
            if (p.kept)
                attend_rows(w, sh, a, i, p);
        }
        end_part<page_q8, D>(&sh->attn, w, a.a.group, a.a.d);
        put_state(a.a, &sh->attn, it.state, a.a.group);
        if (lane_id() == 0) {
            sh->n_kept[warp_id()] = n_kept;
            sh->n_pair[warp_id()] = n_pair;
        }
        block_sync();
        if (thread_id())
            return;
        for (unsigned k = 1; k < WARPS; k++) {
            n_kept += sh->n_kept[k];
            n_pair += sh->n_pair[k];
        }
        work_of(a, block_x()).n_kept = n_kept;
        work_of(a, block_x()).n_pair = n_pair;
    }
};

/* The loss of each query from the exact scores of what was kept; a warp has a query. Where it is
 * too large because estimates were off, the search begins again with what is known now, once. */
template <bool is_last> struct certify_kernel {
    enum { THREADS = 32 * WARPS };
    typedef sp_cuda_cert args;
    SP_DEV float kept_of(const args &a, const sp_cuda_cert_item &it, const sp_cuda_cert_head &h,
                         unsigned t)
    {
        const float *own = a.a.state + state_at(a.a, it.own, t) + a.a.d;
        unsigned first = a.part[it.part].state;
        float kept = 0;
        for (unsigned p = lane_id(); p < it.n_part; p += 32) {
            const float *at = a.a.state + state_at(a.a, first + p, t) + a.a.d;
            kept += at[1] > 0 ? at[1] * exp2_of(at[0] - h.top[t]) : 0;
        }
        kept = warp_sum(kept) + own[1] * exp2_of(own[0] - h.top[t]) +
               exp2_of(sink_of(a.a, t) - h.top[t]);
        /* Dense attention's scores may be lower: it rounds, and so do an estimate and what
         * completes it, the latter with codes of 7.5 at most. */
        return kept * KEPT_DOWN * exp2_of(-2.25f * round_of(a.a.d) * h.norm[t] * h.scale);
    }
    SP_DEV void count(const args &a, const sp_cuda_cert_item &it, sp_cuda_cert_head &h)
    {
        h.n_kept = h.n_pair = 0;
        for (unsigned p = it.part; p < it.part + it.n_part; p++) {
            h.n_kept += work_of(a, p).n_kept;
            h.n_pair += work_of(a, p).n_pair;
        }
    }
    SP_DEV void run(const args &a)
    {
        const sp_cuda_cert_item it = a.item[block_x()];
        sp_cuda_cert_head &h = head_of(a, block_x());
        if (!h.is_open)
            return;
        for (unsigned t = warp_id(); t < a.a.group; t += WARPS) {
            float kept = kept_of(a, it, h, t);
            if (lane_id() == 0)
                h.kept[t] = kept;
        }
        block_sync();
        if (thread_id())
            return;
        float worst = 0;
        bool holds = true;
        for (unsigned t = 0; t < a.a.group; t++) {
            float loss = h.left[t] / (h.left[t] + h.kept[t]);
            holds = holds && loss <= it.eps; /* not of a NaN */
            worst = fmaxf(worst, loss);
        }
        h.is_open = !holds && !is_last;
        h.is_dense = !holds && is_last;
        if (holds) {
            h.loss = worst;
            count(a, it, h);
        } else {
            start_search(h, it);
        }
    }
};

template <int D> int scan(const sp_cuda_cert *a)
{
    return launch<scan_kernel<D>>(a->n_part, a->a.n_head,
                                  (sizeof(typename scan_kernel<D>::shared) + 15) / 16 * 16, *a);
}
template <int D> int rows(const sp_cuda_cert *a)
{
    return launch<rows_kernel<D>>(a->n_part, a->a.n_head,
                                  (sizeof(typename rows_kernel<D>::shared) + 15) / 16 * 16, *a);
}
int tail(const sp_cuda_cert *a)
{
    return launch<tail_kernel>(a->n_part, a->a.n_head, (sizeof(tail_kernel::shared) + 15) / 16 * 16,
                               *a);
}
template <bool is_last> int choose(const sp_cuda_cert *a)
{
    typedef choose_kernel<is_last> kernel;
    int err = tail(a);
    return err ? err : launch<kernel>(a->n_item, a->a.n_head, sizeof(typename kernel::shared), *a);
}

/* Of what is open, everything from the search to the certificate. */
template <bool is_last> int attempt(const sp_cuda_cert *a)
{
    unsigned d = a->a.d;
    int err = choose<false>(a);
    if (!err)
        err = choose<true>(a);
    if (!err)
        err = d <= 64 ? rows<64>(a) : d <= 128 ? rows<128>(a) : rows<256>(a);
    return err ? err : launch<certify_kernel<is_last>>(a->n_item, a->a.n_head, 0, *a);
}

} // namespace

extern "C" int sp_cuda_cert_run(const sp_cuda_cert *a)
{
    unsigned d = a->a.d;
    int err = d <= 64 ? scan<64>(a) : d <= 128 ? scan<128>(a) : scan<256>(a);
    if (!err)
        err = launch<start_kernel>(a->n_item, a->a.n_head, 0, *a);
    if (!err)
        err = attempt<false>(a);
    return err ? err : attempt<true>(a);
}
