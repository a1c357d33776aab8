/* Any text as a template, run over a small conversation. */
#include "fuzz.h"

#include "text/jinja.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    sp_jinja *j;
    sp_arena a;
    sp_jval vars, list, msg;
    sp_buf out = {0};
    if (sp_jinja_compile(&j, (const char *)p, n, NULL) != SP_OK)
        return 0;
    sp_arena_init(&a, 4 << 20);
    if (sp_jinja_map_new(&vars, &a) == SP_OK && sp_jinja_list_new(&list, &a) == SP_OK && sp_jinja_map_new(&msg, &a) == SP_OK &&
        sp_jinja_map_set(&msg, &a, "role", sp_jinja_str("user", 4)) == SP_OK &&
        sp_jinja_map_set(&msg, &a, "content", sp_jinja_str("h\xc3\xa9 x", 5)) == SP_OK && sp_jinja_list_add(&list, &a, msg) == SP_OK &&
        sp_jinja_list_add(&list, &a, msg) == SP_OK && sp_jinja_map_set(&vars, &a, "messages", list) == SP_OK)
        (void)!sp_jinja_run(j, &out, NULL, &a, &vars, NULL);
    sp_buf_fini(&out);
    sp_arena_fini(&a);
    sp_jinja_free(j);
    return 0;
}
