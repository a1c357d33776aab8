/* sparing key: keys of the people who may ask. A key is made here, shown once, and kept as its hash
 * only. */
#include "cmd/cmd.h"

#include "api/auth.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum { KEY_BYTES = 32, ADDRESS = 256 };

/* "sk-" and 43 letters, digits, - and _: 256 bits. */
static sp_err make_key(char out[3 + 43 + 1], sp_diag *d)
{
    static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    unsigned char b[KEY_BYTES + 1] = {0}; /* one more, so that the last letter has all its bits */
    char *to = out + 3;
    if (getrandom(b, KEY_BYTES, 0) != KEY_BYTES)
        return SP_FAIL(d, SP_IO, "the system gives no random bytes");
    memcpy(out, "sk-", 3);
    for (size_t bit = 0; bit < 8 * KEY_BYTES; bit += 6) {
        unsigned two = (unsigned)b[bit / 8] << 8 | b[bit / 8 + 1];
        *to++ = set[two >> (10 - bit % 8) & 63];
    }
    *to = 0;
    return SP_OK;
}

/* Where others reach this machine: --host if it says so, else the first address that is not
 * loopback, else its name. */
static void find_address(char out[ADDRESS], const sp_opts *o)
{
    const char *host = sp_opt_str(o, "host");
    struct ifaddrs *list = NULL;
    if (sp_opt_origin_of(o, "host") > SP_ORIGIN_DEFAULT && strcmp(host, "0.0.0.0") != 0 &&
        strcmp(host, "::") != 0) {
        snprintf(out, ADDRESS, strchr(host, ':') ? "[%s]" : "%s", host);
        return;
    }
    if (gethostname(out, ADDRESS) != 0 || !out[0])
        snprintf(out, ADDRESS, "localhost");
    out[ADDRESS - 1] = 0;
    if (getifaddrs(&list) != 0)
        return;
    for (const struct ifaddrs *a = list; a; a = a->ifa_next) {
        const struct sockaddr_in *in = (const void *)a->ifa_addr;
        if (in && in->sin_family == AF_INET && a->ifa_flags & IFF_UP &&
            !(a->ifa_flags & IFF_LOOPBACK) && inet_ntop(AF_INET, &in->sin_addr, out, ADDRESS))
            break;
    }
    freeifaddrs(list);
}

static int add(const sp_opts *o, const char *name)
{
    char key[3 + 43 + 1], address[ADDRESS];
    const char *path = sp_opt_str(o, "keys") ? sp_opt_str(o, "keys") : "keys.txt";
    const char *role = sp_opt_str(o, "role") ? sp_opt_str(o, "role") : "user";
    long long port = (long long)sp_opt_int(o, "port");
    sp_diag d = {0};
    sp_err err = make_key(key, &d);
    if (err == SP_OK)
        err = sp_auth_add(path, key, name, role, &d);
    if (err != SP_OK)
        return sp_cmd_fail(err == SP_INVAL ? EXIT_USAGE : EXIT_RUN, &d);
    find_address(address, o);
    if (sp_opt_flag(o, "json")) {
        printf("{\"key\":\"%s\",\"url\":\"http://%s:%lld/v1\",\"tenant\":\"%s\",\"role\":\"%s\"}\n",
               key, address, port, name, role);
        return EXIT_DONE;
    }
    printf("%s\n", key);
    fprintf(stderr,
            "This is the only time the key is shown; its hash is in %s. Clients use it with\n\n  "
            "export OPENAI_BASE_URL=http://%s:%lld/v1 OPENAI_API_KEY=%s\n\n"
            "Serve with:  sparing serve --keys %s --host 0.0.0.0 --port %lld\nA server that runs "
            "already takes it after SIGHUP.\n",
            path, address, port, key, path, port);
    return EXIT_DONE;
}

int sp_cmd_key(const sp_opts *o)
{
    const char *const *rest;
    sp_diag d = {0};
    if (sp_opts_rest(o, &rest) == 2 && strcmp(rest[0], "add") == 0)
        return add(o, rest[1]);
    (void)SP_FAIL(&d, SP_INVAL, "key: expected `add NAME`");
    return sp_cmd_fail(EXIT_USAGE, &d);
}
