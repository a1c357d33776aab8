/* The policy's network: probabilities, what is not possible, files. */
#include "test.h"

#include "gen/policy.h"

#include <math.h>
#include <string.h>

void test_policy(void **state);

void test_policy(void **state)
{
    (void)state;
    static sp_policy p, q;
    double prob[SP_POLICY_ACTS], sum = 0;
    float x[SP_POLICY_IN] = {1, -1, 0.5f}, mid[SP_POLICY_MID];
    sp_policy_start(&p, 7);
    strcpy(p.origin, "{\"model\":\"a \\\"b\\\"\",\"seed\":7}");
    sp_policy_run(&p, prob, mid, x, (1 << SP_POLICY_ACTS) - 1);
    for (size_t a = 0; a < SP_POLICY_ACTS; a++)
        sum += prob[a];
    assert_true(fabs(sum - 1) < 1e-12 && prob[SP_ACT_GO] > 0.6);
    float z = p.in_bias[3];
    for (size_t k = 0; k < SP_POLICY_IN; k++)
        z += p.in[3][k] * x[k];
    assert_true(fabsf(mid[3] - tanhf(z)) < 1e-6f);
    sp_policy_run(&p, prob, NULL, x, 1 << SP_ACT_GO | 1 << SP_ACT_ANSWER);
    assert_true(prob[SP_ACT_STOP] == 0 && prob[SP_ACT_PRUNE] == 0 && fabs(prob[SP_ACT_GO] + prob[SP_ACT_ANSWER] - 1) < 1e-12);
    sp_policy_run(&p, prob, NULL, x, 1 << SP_ACT_GO);
    assert_true(prob[SP_ACT_GO] == 1);
    assert_true(sp_policy_is_for(&p, "a \"b\"") && !sp_policy_is_for(&p, "a") && !sp_policy_is_for(&p, ""));
    sp_buf b = {0};
    sp_policy_write(&b, &p);
    assert_false(b.failed);
    assert_int_equal(sp_policy_open(&q, b.p, b.len, NULL), SP_OK);
    assert_memory_equal(&p, &q, sizeof p);
    for (size_t n = 0; n < b.len; n++) /* none that is cut short */
        assert_int_equal(sp_policy_open(&q, b.p, n, NULL), SP_FORMAT);
    float bad = INFINITY;
    memcpy(b.p + b.len - 4, &bad, 4);
    assert_int_equal(sp_policy_open(&q, b.p, b.len, NULL), SP_FORMAT);
    sp_buf_fini(&b);
}
