/* `sparing health`: does the server of --host and --port live, or take requests? For container
 * files and scripts, which have no other client at hand. */
#include "cmd/cmd.h"

#include <curl/curl.h>
#include <stdio.h>
#include <string.h>

enum { WAIT_MS = 5000 };

static size_t drop(char *p, size_t size, size_t n, void *arg)
{
    (void)p, (void)arg;
    return size * n;
}

/* An address that stands for all of this machine's is asked on loopback. */
static const char *reach(const char *host)
{
    return strcmp(host, "0.0.0.0") == 0 ? "127.0.0.1" : strcmp(host, "::") == 0 ? "::1" : host;
}

static sp_err ask(const char *url, sp_diag *d)
{
    long status = 0;
    CURL *h = curl_easy_init();
    if (!h)
        return SP_FAIL(d, SP_NOMEM, "health");
    curl_easy_setopt(h, CURLOPT_URL, url);
    curl_easy_setopt(h, CURLOPT_PROXY, "");
    curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http");
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)WAIT_MS);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, drop);
    CURLcode code = curl_easy_perform(h);
    curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(h);
    if (code != CURLE_OK)
        return SP_FAIL(d, SP_NET, "health: %.100s: %s", url, curl_easy_strerror(code));
    return status == 200 ? SP_OK : SP_FAIL(d, SP_NET, "health: %.100s: %ld", url, status);
}

int sp_cmd_health(const sp_opts *o)
{
    char url[256];
    sp_diag d = {0};
    const char *host = reach(sp_opt_str(o, "host"));
    bool v6 = strchr(host, ':') != NULL;
    snprintf(url, sizeof url, "http://%s%.100s%s:%lld/%s", v6 ? "[" : "", host, v6 ? "]" : "",
             (long long)sp_opt_int(o, "port"), sp_opt_flag(o, "ready") ? "readyz" : "livez");
    return ask(url, &d) == SP_OK ? EXIT_DONE : sp_cmd_fail(EXIT_RUN, &d);
}
