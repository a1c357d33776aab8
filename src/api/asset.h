/* Files that are built into the binary: the pages with their parts, the description of the API, and
 * a few that the server itself reads. scripts/embed.cmake makes the list; a file of web/ needs no
 * other line anywhere.
 *
 * /NAME is revalidated each time (ETag). /a/BUILD/NAME never changes, as BUILD names all files
 * together: pages write /a/@/NAME, which embed.cmake replaces, and modules import each other by
 * relative paths. Another BUILD than this one gets the file of today.
 * --web-dir: the same addresses from a folder, read at each request, for work on the pages.
 * Threads: the HTTP thread. */
#ifndef SP_API_ASSET_H
#define SP_API_ASSET_H

#include "api/app.h"

typedef struct sp_asset {
    const char *name, *url; /* url NULL: it is not served */
    const char *type, *sum; /* SHA-256 in hex */
    const unsigned char *p;
    size_t n;
    const unsigned char *gz; /* NULL: there is no packed copy */
    size_t n_gz;
    bool is_app; /* a page whose scripts work under Trusted Types */
} sp_asset;

extern const sp_asset sp_assets[]; /* ends with a name that is NULL */
extern const char sp_asset_build[];

/* By name: what the server itself reads. NULL: there is none. */
const sp_asset *sp_asset_named(const char *name);
bool sp_asset_has(const sp_app *app, const char *path);
/* Answers for a path that sp_asset_has. */
void sp_asset_reply(const sp_app *app, const sp_api_req *req, sp_http_reply *reply);

#endif
