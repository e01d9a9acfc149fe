/*
 * A small Hugging Face hub on the loopback interface, in a thread, for the tests of `./workshop fetch`.
 *
 * It answers as the real one does: HEAD and GET on /REPO/resolve/REVISION/FILE, small files behind a
 * redirection inside the hub with git's SHA-1 as ETag, large ones redirected to another host name (localhost
 * instead of 127.0.0.1) with SHA-256 and size in X-Linked-Etag and X-Linked-Size, byte ranges, error codes in
 * X-Error-Code. It misbehaves on demand. One connection is served at a time.
 */
#ifndef TESTS_SUPPORT_HUB_H
#define TESTS_SUPPORT_HUB_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#define HUB_COMMIT                                                                                           \
    "0123456789abcdef0123456789abcdef01234567" /* the only one; main and refs/pr/1 stand for it */
enum { HUB_LOG_LINES = 256, HUB_LOG_WIDTH = 400 };

struct hub_file {
    const char *repository; /* "org/name", or "datasets/org/name" */
    const char *path;
    const char *sum; /* what the hub says: SHA-256 of a large file, git's SHA-1 of a small one */
    bool large;
    const char *data; /* the caller's, for the hub's life */
    size_t size;      /* bytes */
};

/* What the hub does wrong; read at each request, set between commands. */
struct hub_faults {
    int breaks;         /* so many answers with bytes of a large file break off … */
    size_t break_after; /* … after so many bytes */
    bool stall;         /* they do not break off then but hang, until the client goes */
    bool no_ranges;     /* ranges are ignored: status 200 and everything */
    bool corrupt;       /* the first byte of large files is wrong */
    int status;         /* every answer has this status, if not 0 */
};

struct hub {
    int port;
    struct hub_faults faults;
    int lines; /* of the log: "METHOD PATH range=FIRST token=TOKEN sent=BYTES" */
    char log[HUB_LOG_LINES][HUB_LOG_WIDTH];
    const struct hub_file *files;
    int count;
    int listener;
    pthread_t thread;
};

/* Starts the server on a free port with `count` files, the caller's. fail_msg() where that is not possible.
 */
void hub_start(struct hub *hub, const struct hub_file *files, int count);
void hub_stop(struct hub *hub);

/* How many lines of the log hold both parts; the log is emptied by setting `lines` to 0. */
int hub_requests(const struct hub *hub, const char *part, const char *other);

#endif
