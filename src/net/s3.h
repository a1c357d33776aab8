/* Objects on S3 and what speaks its protocol (AWS, Ceph, SeaweedFS, MinIO), over libcurl with its
 * signature version 4: range reads that go on where a connection broke, multipart writes, retries
 * with jitter.
 *
 * Credentials as the AWS tools find them: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and
 * AWS_SESSION_TOKEN, else the profile AWS_PROFILE (default) in AWS_SHARED_CREDENTIALS_FILE or
 * ~/.aws/credentials.
 * Region: AWS_REGION, AWS_DEFAULT_REGION, the profile in AWS_CONFIG_FILE or ~/.aws/config,
 * us-east-1.
 *
 * Limits:  keys of [A-Za-z0-9/_.-]; 4 attempts; 3 s to connect, 10 s without a byte.
 * Threads: any; each call uses a connection of its own.
 * Errors:  SP_NOTFOUND; SP_INVAL for refused credentials or requests (HTTP 4xx), with the store's
 *          code;
 *          SP_NET and SP_TIMEOUT after the last attempt; SP_CANCEL when the sink said stop, or
 *          sp_s3_stop. */
#ifndef SP_NET_S3_H
#define SP_NET_S3_H

#include "kv/cold.h"

typedef struct sp_s3 sp_s3;

/* url: s3://BUCKET or s3://BUCKET/PREFIX. endpoint: NULL for AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL,
 * AWS. */
SP_MUST sp_err sp_s3_open(sp_s3 **out, const char *url, const char *endpoint, sp_diag *d);
void sp_s3_close(sp_s3 *s);
/* From here on every call ends with SP_CANCEL, those that run within a second. Any thread. */
void sp_s3_stop(sp_s3 *s);
/* Its operations for the memory; keys are under the prefix. Borrowed; lives as long as s. */
const sp_kv_cold *sp_s3_cold(sp_s3 *s);

#endif
