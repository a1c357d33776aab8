/* The intent model's file, a request's text, labelled prompts, and a caller's traceparent. The first byte says which. */
#include "fuzz.h"

#include "obs/trace.h"
#include "pipe/intent_train.h"

#include <stdio.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    sp_intent_model m;
    sp_intent_features f;
    sp_intent_result r;
    sp_buf out = {0};
    char header[80];
    sp_trace t;
    if (n == 0)
        return 0;
    switch (p[0] % 4) {
    case 0:
        if (sp_intent_open(&m, p + 1, n - 1, NULL) == SP_OK) {
            sp_intent in;
            sp_intent_judge(&m, &in, "What is this?", 13);
        }
        break;
    case 1:
        sp_intent_read(&f, (const char *)p + 1, n - 1);
        break;
    case 2:
        if (n < 4096)
            (void)!sp_intent_train(&out, &r, (const char *)p + 1, n - 1, NULL);
        break;
    default:
        snprintf(header, sizeof header, "%.*s", (int)(n - 1 < 79 ? n - 1 : 79), (const char *)p + 1);
        sp_trace_start(&t, header);
        sp_trace_header(header, &t);
    }
    sp_buf_fini(&out);
    return 0;
}
