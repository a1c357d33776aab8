/* Template source to syntax tree: text, statements, whole templates. */
#include "text/jinja_parse.h"

#include <ctype.h>

enum { MAX_SRC = 256 * 1024, MAX_NODE_BYTES = 32 << 20 };

static sp_err end_tag(parser *p, char kind)
{
    size_t n = p->tok.n;
    if (p->kind != T_END || p->tok.p[n - 2] != kind)
        return BAD(p, "%u: unexpected '%.*s' in a tag", p->line, (int)(n < 20 ? n : 20), p->tok.p);
    p->at = (size_t)(p->tok.p - p->s) + n;
    p->trim_next = p->tok.p[0] == '-';
    p->after_block = kind == '%' && p->tok.p[0] != '+';
    return SP_OK;
}

/* Text up to the next tag, with the whitespace rules of trim_blocks and lstrip_blocks applied. */
static sp_err text(parser *p, jnode ***tail)
{
    size_t start = p->at, i = p->at;
    while (i < p->n && !(p->s[i] == '{' && i + 1 < p->n && strchr("{%#", p->s[i + 1])))
        i++;
    size_t end = i;
    for (size_t k = start; k < i; k++)
        p->line += p->s[k] == '\n';
    if (p->trim_next)
        while (start < end && isspace((unsigned char)p->s[start]))
            start++;
    else if (p->after_block && start < end && p->s[start] == '\n')
        start++;
    else if (p->after_block && start + 1 < end && p->s[start] == '\r' && p->s[start + 1] == '\n')
        start += 2;
    p->trim_next = p->after_block = false;
    char sign = i + 2 < p->n ? p->s[i + 2] : 0;
    if (i < p->n && sign == '-') {
        while (end > start && isspace((unsigned char)p->s[end - 1]))
            end--;
    } else if (i < p->n && p->s[i + 1] != '{' && sign != '+') {
        size_t k = end;
        while (k > p->at && (p->s[k - 1] == ' ' || p->s[k - 1] == '\t'))
            k--;
        if (k == 0 || p->s[k - 1] == '\n')
            end = k > start ? k : start;
    } else if (i >= p->n && end > start && p->s[end - 1] == '\n') {
        end--; /* keep_trailing_newline is off */
    }
    p->at = i;
    if (end <= start)
        return SP_OK;
    jnode *n;
    SP_TRY(sp_jinja_node(p, &n, J_TEXT));
    n->lit = sp_jinja_str(p->s + start, end - start);
    **tail = n;
    *tail = &n->next;
    return SP_OK;
}

static sp_err block(parser *p, jnode **out, const char *const *stops, const char **stop);

static sp_err if_statement(parser *p, jnode *n)
{
    static const char *const stops[] = {"elif", "else", "endif", NULL};
    const char *stop;
    SP_TRY(sp_jinja_nest(p));
    SP_TRY(sp_jinja_expression(p, &n->a));
    SP_TRY(end_tag(p, '%'));
    SP_TRY(block(p, &n->body, stops, &stop));
    for (jnode *at = n; strcmp(stop, "endif") != 0;) {
        if (strcmp(stop, "elif") == 0) {
            SP_TRY(sp_jinja_node(p, &at->other, J_IF));
            at = at->other;
            SP_TRY(sp_jinja_expression(p, &at->a));
            SP_TRY(end_tag(p, '%'));
            SP_TRY(block(p, &at->body, stops, &stop));
        } else {
            SP_TRY(end_tag(p, '%'));
            SP_TRY(block(p, &at->other, stops + 2, &stop));
        }
    }
    p->depth--;
    return end_tag(p, '%');
}

static sp_err for_statement(parser *p, jnode *n)
{
    static const char *const stops[] = {"else", "endfor", NULL};
    const char *stop;
    SP_TRY(sp_jinja_nest(p));
    for (int i = 0; i < 2; i++) {
        if (p->kind != T_NAME)
            return BAD(p, "%u: expected a name after 'for'", p->line);
        *(i ? &n->name2 : &n->name) = p->tok;
        SP_TRY(sp_jinja_advance(p));
        if (i || !sp_jinja_is_op(p, ","))
            break;
        SP_TRY(sp_jinja_advance(p));
    }
    if (!sp_jinja_is_word(p, "in"))
        return BAD(p, "%u: expected 'in'", p->line);
    SP_TRY(sp_jinja_advance(p));
    SP_TRY(sp_jinja_logic(p, &n->a, J_OR));
    if (sp_jinja_is_word(p, "if")) {
        SP_TRY(sp_jinja_advance(p));
        SP_TRY(sp_jinja_expression(p, &n->b));
    }
    SP_TRY(end_tag(p, '%'));
    p->loops++;
    SP_TRY(block(p, &n->body, stops, &stop));
    p->loops--;
    if (strcmp(stop, "else") == 0) {
        SP_TRY(end_tag(p, '%'));
        SP_TRY(block(p, &n->other, stops + 1, &stop));
    }
    p->depth--;
    return end_tag(p, '%');
}

/* Statements up to one that is `end`, and that one. */
static sp_err body_until(parser *p, jnode **out, const char *end)
{
    const char *const stops[] = {end, NULL}, *stop;
    SP_TRY(sp_jinja_nest(p));
    SP_TRY(end_tag(p, '%'));
    SP_TRY(block(p, out, stops, &stop));
    if (p->kind == T_NAME) /* {% endmacro name %} */
        SP_TRY(sp_jinja_advance(p));
    p->depth--;
    return end_tag(p, '%');
}

static sp_err macro_statement(parser *p, jnode *n)
{
    uint32_t loops = p->loops;
    if (p->kind != T_NAME)
        return BAD(p, "%u: expected a name after 'macro'", p->line);
    n->name = p->tok;
    SP_TRY(sp_jinja_advance(p));
    SP_TRY(sp_jinja_expect(p, "("));
    for (jnode **tail = &n->args; !sp_jinja_is_op(p, ")"); tail = &(*tail)->next) {
        if (p->kind != T_NAME)
            return BAD(p, "%u: expected the name of a macro's parameter", p->line);
        SP_TRY(sp_jinja_node(p, tail, J_NAME));
        (*tail)->name = p->tok;
        SP_TRY(sp_jinja_advance(p));
        if (sp_jinja_is_op(p, "=")) {
            SP_TRY(sp_jinja_advance(p));
            SP_TRY(sp_jinja_expression(p, &(*tail)->a));
        }
        if (!sp_jinja_is_op(p, ","))
            break;
        SP_TRY(sp_jinja_advance(p));
    }
    SP_TRY(sp_jinja_expect(p, ")"));
    p->loops = 0;
    SP_TRY(body_until(p, &n->body, "endmacro"));
    p->loops = loops;
    return SP_OK;
}

/* {% filter f | g %}: the body's text goes through them and is written. */
static sp_err filter_statement(parser *p, jnode *n)
{
    jnode *text;
    SP_TRY(sp_jinja_node(p, &text, J_CAPTURE));
    n->a = text;
    SP_TRY(sp_jinja_filter_or_test(p, &n->a, true));
    SP_TRY(sp_jinja_suffixes(p, &n->a));
    return body_until(p, &text->body, "endfilter");
}

/* {% set x %} or {% set x | f %}: the text of the body. */
static sp_err set_block(parser *p, jnode *n)
{
    jnode *text;
    SP_TRY(sp_jinja_node(p, &text, J_CAPTURE));
    n->a = text;
    SP_TRY(sp_jinja_suffixes(p, &n->a));
    return body_until(p, &text->body, "endset");
}

/* Text up to {% endraw %}, whose tag's signs act as they do elsewhere. */
static sp_err raw_statement(parser *p, jnode *n)
{
    static const char word[] = "endraw";
    SP_TRY(end_tag(p, '%'));
    size_t from = p->at;
    if (p->trim_next)
        while (from < p->n && isspace((unsigned char)p->s[from]))
            from++;
    else if (p->after_block && from < p->n && p->s[from] == '\n')
        from++;
    p->trim_next = p->after_block = false;
    for (size_t at = p->at; at + 1 < p->n; at++) {
        if (p->s[at] != '{' || p->s[at + 1] != '%')
            continue;
        size_t k = at + 2, end = at;
        char sign = k < p->n && (p->s[k] == '-' || p->s[k] == '+') ? p->s[k++] : 0;
        while (k < p->n && isspace((unsigned char)p->s[k]))
            k++;
        if (p->n - k < sizeof word - 1 || memcmp(p->s + k, word, sizeof word - 1) != 0)
            continue;
        while (sign == '-' && end > from && isspace((unsigned char)p->s[end - 1]))
            end--;
        while (!sign && end > from && (p->s[end - 1] == ' ' || p->s[end - 1] == '\t'))
            end--;
        if (!sign && end > from && p->s[end - 1] != '\n')
            end = at;
        n->lit = sp_jinja_str(p->s + from, end > from ? end - from : 0);
        for (size_t i = p->at; i < k; i++)
            p->line += p->s[i] == '\n';
        p->at = k + sizeof word - 1;
        SP_TRY(sp_jinja_advance(p));
        return end_tag(p, '%');
    }
    return BAD(p, "%u: endraw is missing", p->line);
}

static sp_err set_statement(parser *p, jnode *n)
{
    if (p->kind != T_NAME)
        return BAD(p, "%u: expected a name after 'set'", p->line);
    n->name = p->tok;
    SP_TRY(sp_jinja_advance(p));
    if (sp_jinja_is_op(p, ".")) {
        SP_TRY(sp_jinja_advance(p));
        if (p->kind != T_NAME)
            return BAD(p, "%u: expected a name after '.'", p->line);
        n->name2 = p->tok;
        SP_TRY(sp_jinja_advance(p));
    }
    if (!sp_jinja_is_op(p, "="))
        return set_block(p, n);
    SP_TRY(sp_jinja_advance(p));
    SP_TRY(sp_jinja_expression(p, &n->a));
    return end_tag(p, '%');
}

static sp_err jump_statement(parser *p, const jnode *n)
{
    if (!p->loops)
        return BAD(p, "%u: break and continue stand in a loop", n->line);
    return end_tag(p, '%');
}

/* One {% … %}; *stop is set when it is one of stops, whose name is consumed. */
static sp_err statement(parser *p, jnode ***tail, const char *const *stops, const char **stop)
{
    if (p->kind != T_NAME)
        return BAD(p, "%u: expected a statement", p->line);
    for (size_t i = 0; stops[i]; i++) {
        if (sp_jinja_is_word(p, stops[i])) {
            *stop = stops[i];
            return sp_jinja_advance(p);
        }
    }
    static const struct { const char *word; jnode_kind kind; } words[] = {
        {"if", J_IF}, {"for", J_FOR}, {"set", J_SET}, {"macro", J_MACRO}, {"filter", J_PRINT},
        {"raw", J_TEXT},
        /* generation: marks for training, no output */
        {"break", J_BREAK}, {"continue", J_CONTINUE}, {"generation", J_SCOPE}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (!sp_jinja_is_word(p, words[i].word))
            continue;
        jnode *n;
        SP_TRY(sp_jinja_node(p, &n, words[i].kind));
        **tail = n;
        *tail = &n->next;
        SP_TRY(sp_jinja_advance(p));
        switch (n->kind) {
        case J_IF: return if_statement(p, n);
        case J_FOR: return for_statement(p, n);
        case J_SET: return set_statement(p, n);
        case J_MACRO: return macro_statement(p, n);
        case J_PRINT: return filter_statement(p, n);
        case J_TEXT: return raw_statement(p, n);
        case J_SCOPE: return body_until(p, &n->body, "endgeneration");
        default: return jump_statement(p, n);
        }
    }
    return SP_FAIL(p->d, SP_UNSUP, "chat template, line %u: statement %.*s is not supported",
                   p->line, (int)(p->tok.n < 40 ? p->tok.n : 40), p->tok.p);
}

static sp_err block(parser *p, jnode **out, const char *const *stops, const char **stop)
{
    jnode **tail = out;
    *stop = NULL;
    for (;;) {
        SP_TRY(text(p, &tail));
        if (p->at >= p->n && !stops[0])
            return SP_OK;
        if (p->at >= p->n) {
            while (stops[1])
                stops++;
            return BAD(p, "%u: %s is missing", p->line, stops[0]);
        }
        char kind = p->s[p->at + 1];
        if (kind == '#') {
            const char *from = p->s + p->at + 2, *end = memmem(from, p->n - p->at - 2, "#}", 2);
            if (!end)
                return BAD(p, "%u: comment without an end", p->line);
            for (const char *c = from; c < end; c++)
                p->line += *c == '\n';
            p->trim_next = end > from && end[-1] == '-';
            p->after_block = true;
            p->at = (size_t)(end - p->s) + 2;
            continue;
        }
        p->at += 2;
        if (p->at < p->n && (p->s[p->at] == '-' || p->s[p->at] == '+'))
            p->at++;
        SP_TRY(sp_jinja_advance(p));
        if (kind == '%') {
            SP_TRY(statement(p, &tail, stops, stop));
            if (*stop)
                return SP_OK;
            continue;
        }
        jnode *n;
        SP_TRY(sp_jinja_node(p, &n, J_PRINT));
        SP_TRY(sp_jinja_expression(p, &n->a));
        *tail = n;
        tail = &n->next;
        SP_TRY(end_tag(p, '}'));
    }
}

sp_err sp_jinja_compile(sp_jinja **out, const char *src, size_t n, sp_diag *d)
{
    static const char *const no_stop[] = {NULL};
    if (n > MAX_SRC)
        return SP_FAIL(d, SP_LIMIT, "chat template is %zu bytes long, limit %d", n, MAX_SRC);
    sp_jinja *j = sp_mem_alloc(sizeof *j);
    if (!j)
        return SP_FAIL(d, SP_NOMEM, "chat template");
    sp_arena_init(&j->arena, MAX_NODE_BYTES);
    j->src = sp_mem_alloc(n + 1);
    sp_err err = j->src ? SP_OK : SP_FAIL(d, SP_NOMEM, "chat template");
    if (err == SP_OK) {
        const char *stop;
        size_t k = 0;
        for (size_t i = 0; i < n; i++) /* \r\n and \r end a line, as \n does */
            if (src[i] != '\r' || i + 1 == n || src[i + 1] != '\n')
                j->src[k++] = src[i] == '\r' ? '\n' : src[i];
        n = k;
        parser p = {.j = j, .s = j->src, .n = n, .line = 1, .d = d};
        err = block(&p, &j->root, no_stop, &stop);
    }
    if (err == SP_OK)
        *out = j;
    else
        sp_jinja_free(j);
    return err;
}

void sp_jinja_free(sp_jinja *j)
{
    if (!j)
        return;
    sp_arena_fini(&j->arena);
    sp_mem_free(j->src);
    sp_mem_free(j);
}
