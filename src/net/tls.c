#include "net/tls.h"

#include "base/lock.h"
#include "base/mem.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <string.h>
#include <sys/stat.h>

enum { N_FILE = 3 };

/* By which a file is known to be another. */
typedef struct stamp {
    dev_t dev;
    ino_t ino;
    off_t size;
    struct timespec at;
} stamp;

struct sp_tls {
    sp_tls_cfg cfg;
    stamp seen[N_FILE]; /* of the files when they were last read */
    sp_lock lock;       /* rank NET */
    SSL_CTX *ctx;       /* guard: lock */
};

/* OpenSSL's SSL under another name. */
static SSL *ssl_of(const sp_tls_conn *c)
{
    return (SSL *)(uintptr_t)c;
}

/* --- files ------------------------------------------------------------------------------------ */

/* What OpenSSL says went wrong first. */
static const char *reason(void)
{
    unsigned long e = ERR_get_error();
    const char *text = e ? ERR_reason_error_string(e) : NULL;
    ERR_clear_error();
    return text ? text : "it cannot be read";
}

static int no_password(char *p, int n, int writing, void *arg)
{
    (void)p, (void)n, (void)writing, (void)arg;
    return -1; /* nobody is there to type one */
}

static int choose_h2(SSL *s, const unsigned char **out, unsigned char *n_out,
                     const unsigned char *in, unsigned int n_in, void *arg)
{
    static const unsigned char h2[] = "\x02h2";
    unsigned char *found;
    (void)s, (void)arg;
    if (SSL_select_next_proto(&found, n_out, h2, sizeof h2 - 1, in, n_in) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = found;
    return SSL_TLSEXT_ERR_OK;
}

static sp_err read_files(SSL_CTX *ctx, const sp_tls_cfg *cfg, sp_diag *d)
{
    if (SSL_CTX_use_certificate_chain_file(ctx, cfg->cert) != 1)
        return SP_FAIL(d, SP_INVAL, "tls: certificate %.100s: %.80s", cfg->cert, reason());
    if (SSL_CTX_use_PrivateKey_file(ctx, cfg->key, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(ctx) != 1)
        return SP_FAIL(d, SP_INVAL, "tls: key %.100s: %.80s", cfg->key, reason());
    if (!cfg->client_ca)
        return SP_OK;
    STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(cfg->client_ca);
    if (!names || SSL_CTX_load_verify_locations(ctx, cfg->client_ca, NULL) != 1) {
        sk_X509_NAME_pop_free(names, X509_NAME_free);
        return SP_FAIL(d, SP_INVAL, "tls: CA of clients %.100s: %.80s", cfg->client_ca, reason());
    }
    SSL_CTX_set_client_CA_list(ctx, names); /* takes them */
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    return SP_OK;
}

static sp_err load(SSL_CTX **out, const sp_tls_cfg *cfg, sp_diag *d)
{
    static const unsigned char name[] = "sparing grpc";
    ERR_clear_error();
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    if (!ctx || SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1 ||
        SSL_CTX_set_session_id_context(ctx, name, sizeof name - 1) != 1) {
        SSL_CTX_free(ctx);
        return SP_FAIL(d, SP_NOMEM, "tls");
    }
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_default_passwd_cb(ctx, no_password);
    SSL_CTX_set_alpn_select_cb(ctx, choose_h2, NULL);
    sp_err err = read_files(ctx, cfg, d);
    if (err == SP_OK)
        *out = ctx;
    else
        SSL_CTX_free(ctx);
    return err;
}

/* A file that is not there has no stamp. */
static void look(stamp out[N_FILE], const sp_tls_cfg *cfg)
{
    const char *const path[N_FILE] = {cfg->cert, cfg->key, cfg->client_ca};
    struct stat st;
    memset(out, 0, N_FILE * sizeof *out);
    for (size_t i = 0; i < N_FILE; i++)
        if (path[i] && stat(path[i], &st) == 0) {
            out[i].dev = st.st_dev;
            out[i].ino = st.st_ino;
            out[i].size = st.st_size;
            out[i].at = st.st_mtim;
        }
}

sp_err sp_tls_new(sp_tls **out, const sp_tls_cfg *cfg, sp_diag *d)
{
    sp_tls *t = sp_mem_alloc(sizeof *t);
    if (!t)
        return SP_FAIL(d, SP_NOMEM, "tls");
    t->cfg = *cfg;
    sp_lock_init(&t->lock, SP_RANK_NET);
    look(t->seen, cfg);
    sp_err err = load(&t->ctx, cfg, d);
    if (err == SP_OK)
        *out = t;
    else
        sp_tls_free(t);
    return err;
}

void sp_tls_free(sp_tls *t)
{
    if (!t)
        return;
    SSL_CTX_free(t->ctx);
    sp_lock_fini(&t->lock);
    sp_mem_free(t);
}

sp_err sp_tls_reload(bool *done, sp_tls *t, bool always, sp_diag *d)
{
    stamp now[N_FILE];
    SSL_CTX *ctx, *old;
    look(now, &t->cfg); /* before reading: what changes meanwhile is read the next time */
    *done = always || memcmp(now, t->seen, sizeof now) != 0;
    if (!*done)
        return SP_OK;
    memcpy(t->seen, now, sizeof now);
    SP_TRY(load(&ctx, &t->cfg, d));
    sp_lock_get(&t->lock);
    old = t->ctx;
    t->ctx = ctx;
    sp_lock_put(&t->lock);
    SSL_CTX_free(old); /* connections hold it on */
    return SP_OK;
}

/* --- connections ------------------------------------------------------------------------------ */

sp_tls_conn *sp_tls_accept(sp_tls *t, int fd)
{
    sp_lock_get(&t->lock);
    SSL *s = SSL_new(t->ctx);
    sp_lock_put(&t->lock);
    if (s && SSL_set_fd(s, fd) == 1) {
        SSL_set_accept_state(s);
        return (sp_tls_conn *)s;
    }
    SSL_free(s);
    ERR_clear_error();
    return NULL;
}

void sp_tls_close(sp_tls_conn *c)
{
    if (!c)
        return;
    ERR_clear_error();
    if (SSL_is_init_finished(ssl_of(c)))
        (void)SSL_shutdown(ssl_of(c)); /* says that this is the end; the answer is not waited for */
    ERR_clear_error();
    SSL_free(ssl_of(c));
}

/* n: what the operation returned. */
static ssize_t result(const SSL *s, int n)
{
    int why = n > 0 ? SSL_ERROR_NONE : SSL_get_error(s, n);
    ERR_clear_error();
    if (n > 0)
        return n;
    if (why == SSL_ERROR_ZERO_RETURN)
        return 0;
    errno = why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? EAGAIN : EPROTO;
    return -1;
}

/* A client that names no protocol at all is not asked by choose_h2. */
static bool is_fine(const SSL *s)
{
    const unsigned char *name;
    unsigned int n = 0;
    if (SSL_is_init_finished(s))
        SSL_get0_alpn_selected(s, &name, &n);
    return !SSL_is_init_finished(s) || n > 0;
}

ssize_t sp_tls_recv(sp_tls_conn *c, void *p, size_t n)
{
    ERR_clear_error();
    int got = SSL_read(ssl_of(c), p, n < INT32_MAX ? (int)n : INT32_MAX);
    if (is_fine(ssl_of(c)))
        return result(ssl_of(c), got);
    errno = EPROTO;
    return -1;
}

ssize_t sp_tls_send(sp_tls_conn *c, const void *p, size_t n)
{
    ERR_clear_error();
    ssize_t sent = result(ssl_of(c), SSL_write(ssl_of(c), p, n < INT32_MAX ? (int)n : INT32_MAX));
    if (sent == 0) { /* the end: nobody takes anything any more */
        errno = EPIPE;
        return -1;
    }
    return sent;
}

bool sp_tls_wants_recv(const sp_tls_conn *c)
{
    return SSL_want_read(ssl_of(c));
}

bool sp_tls_wants_send(const sp_tls_conn *c)
{
    return SSL_want_write(ssl_of(c));
}
