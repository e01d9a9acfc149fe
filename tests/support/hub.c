#include "tests/support/hub.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/check.h"

struct request {
    char method[8], path[300], token[64];
    size_t first; /* first byte asked for */
    bool ranged;
};

/* The value of a header, or NULL. */
static const char *header(const char *text, const char *name) {
    size_t length = strlen(name);
    for (const char *line = strstr(text, "\r\n"); line; line = strstr(line + 2, "\r\n")) {
        if (!strncasecmp(line + 2, name, length) && line[2 + length] == ':') {
            const char *value = line + 3 + length;
            return value + strspn(value, " ");
        }
    }
    return NULL;
}

static bool read_request(int connection, struct request *request) {
    char text[8192];
    size_t size = 0;
    do {
        ssize_t count = read(connection, text + size, sizeof text - 1 - size);
        if (count <= 0) return false;
        size += (size_t)count;
        text[size] = '\0';
    } while (!strstr(text, "\r\n\r\n") && size < sizeof text - 1);
    *request = (struct request){.first = 0};
    if (sscanf(text, "%7s %299s", request->method, request->path) != 2) return false;
    const char *range = header(text, "range");
    request->ranged = range && sscanf(range, "bytes=%zu-", &request->first) == 1;
    const char *token = header(text, "authorization");
    if (!token || sscanf(token, "Bearer %63[^\r]", request->token) != 1) strcpy(request->token, "none");
    return true;
}

/* false where the client is gone. */
static bool send_all(int connection, const char *data, size_t size) {
    while (size > 0) {
        ssize_t count = send(connection, data, size, MSG_NOSIGNAL);
        if (count <= 0) return false;
        data += count;
        size -= (size_t)count;
    }
    return true;
}

static void send_head(int connection, int status, const char *headers, size_t length) {
    char text[2048];
    int size =
        snprintf(text, sizeof text, "HTTP/1.1 %d x\r\n%sContent-Length: %zu\r\nConnection: close\r\n\r\n",
                 status, headers, length);
    send_all(connection, text, (size_t)size);
}

/* The bytes of a file from the first one asked for, or as the faults have it. The number sent. */
static size_t send_file(struct hub *hub, int connection, const struct request *request,
                        const struct hub_file *file, const char *headers) {
    size_t first = request->ranged && !hub->faults.no_ranges ? request->first : 0;
    if (first >= file->size) {
        send_head(connection, 416, "", 0);
        return 0;
    }
    char more[1024];
    int used = snprintf(more, sizeof more, "%s", headers);
    if (request->ranged && !hub->faults.no_ranges)
        snprintf(more + used, sizeof more - (size_t)used, "Content-Range: bytes %zu-%zu/%zu\r\n", first,
                 file->size - 1, file->size);
    send_head(connection, request->ranged && !hub->faults.no_ranges ? 206 : 200, more, file->size - first);
    if (!strcmp(request->method, "HEAD")) return 0;
    size_t size = file->size - first;
    bool faulty = file->large && hub->faults.breaks > 0 && size > hub->faults.break_after;
    if (faulty) {
        size = hub->faults.break_after;
        hub->faults.breaks--;
    }
    if (file->large && hub->faults.corrupt && first == 0 && size > 0) {
        char wrong = (char)(file->data[0] ^ 1);
        send_all(connection, &wrong, 1);
        send_all(connection, file->data + 1, size - 1);
    } else {
        send_all(connection, file->data + first, size);
    }
    if (faulty && hub->faults.stall) {
        char byte;
        while (read(connection, &byte, 1) > 0)
            continue; /* until the client closes, or the socket's time limit */
    }
    return size;
}

static const struct hub_file *find(const struct hub *hub, const char *repository, const char *path) {
    for (int i = 0; i < hub->count; i++)
        if (!strcmp(hub->files[i].repository, repository) && (!path || !strcmp(hub->files[i].path, path)))
            return &hub->files[i];
    return NULL;
}

/* /REPO/resolve/REVISION/FILE and, for the small files' second step, /api/resolve-cache/REPO/REVISION/FILE.
 */
static size_t answer_hub(struct hub *hub, int connection, const struct request *request) {
    static const char inside[] = "/api/resolve-cache/";
    bool second = !strncmp(request->path, inside, strlen(inside));
    char repository[128], revision[64], path[128], headers[900];
    const char *resolve = strstr(request->path, "/resolve/");
    if (second && sscanf(request->path + strlen(inside), "%127[a-z/]%63[0-9a-f]/%127s", repository, revision,
                         path) == 3) {
        repository[strlen(repository) - 1] = '\0'; /* the slash before the revision */
    } else if (!second && resolve && sscanf(resolve, "/resolve/%63[^/]/%127s", revision, path) == 2) {
        snprintf(repository, sizeof repository, "%.*s", (int)(resolve - request->path - 1),
                 request->path + 1);
    } else {
        send_head(connection, 404, "", 0);
        return 0;
    }
    const struct hub_file *file = find(hub, repository, path);
    if (!find(hub, repository, NULL)) {
        send_head(connection, 401, "X-Error-Code: RepoNotFound\r\n", 0);
    } else if (strcmp(revision, "main") && strcmp(revision, HUB_COMMIT) &&
               strcmp(revision, "refs%2Fpr%2F1")) {
        send_head(connection, 404, "X-Error-Code: RevisionNotFound\r\n", 0);
    } else if (!file) {
        send_head(connection, 404, "X-Error-Code: EntryNotFound\r\n", 0);
    } else if (file->large) {
        snprintf(headers, sizeof headers,
                 "X-Repo-Commit: %s\r\nX-Linked-Etag: \"%s\"\r\nX-Linked-Size: %zu\r\nETag: \"other\"\r\n"
                 "Location: http://localhost:%d/bytes/%s\r\n",
                 HUB_COMMIT, file->sum, file->size, hub->port, file->sum);
        send_head(connection, 302, headers, 0);
    } else if (!second) {
        snprintf(headers, sizeof headers, "X-Repo-Commit: %s\r\nLocation: %s%s/%s/%s\r\n", HUB_COMMIT, inside,
                 repository, HUB_COMMIT, path);
        send_head(connection, 307, headers, 0);
    } else {
        snprintf(headers, sizeof headers, "X-Repo-Commit: %s\r\nETag: W/\"%s\"\r\n", HUB_COMMIT, file->sum);
        return send_file(hub, connection, request, file, headers);
    }
    return 0;
}

/* /bytes/SUM: large files' content; /web/NAME: any file by its name, as a plain web server has it. */
static size_t answer(struct hub *hub, int connection, const struct request *request) {
    if (hub->faults.status) {
        send_head(connection, hub->faults.status, "", 0);
        return 0;
    }
    bool bytes = !strncmp(request->path, "/bytes/", 7);
    if (!bytes && strncmp(request->path, "/web/", 5) != 0) return answer_hub(hub, connection, request);
    for (int i = 0; i < hub->count; i++) {
        const struct hub_file *file = &hub->files[i];
        if (!strcmp(bytes ? request->path + 7 : request->path + 5, bytes ? file->sum : file->path))
            return send_file(hub, connection, request, file, "");
    }
    send_head(connection, 404, "", 0);
    return 0;
}

static void *serve(void *argument) {
    struct hub *hub = argument;
    for (;;) {
        int connection = accept(hub->listener, NULL, NULL);
        if (connection < 0) return NULL; /* hub_stop shut it down */
        struct timeval limit = {.tv_sec = 20};
        setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        struct request request;
        if (read_request(connection, &request)) {
            size_t sent = answer(hub, connection, &request);
            if (hub->lines < HUB_LOG_LINES)
                snprintf(hub->log[hub->lines++], HUB_LOG_WIDTH, "%s %s range=%zu token=%s sent=%zu",
                         request.method, request.path, request.first, request.token, sent);
            shutdown(connection, SHUT_WR);
        }
        close(connection);
    }
}

void hub_start(struct hub *hub, const struct hub_file *files, int count) {
    *hub = (struct hub){.files = files, .count = count};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    hub->listener = socket(AF_INET, SOCK_STREAM, 0);
    if (hub->listener < 0 || bind(hub->listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(hub->listener, 16) != 0 || getsockname(hub->listener, (struct sockaddr *)&address, &size) != 0)
        fail_msg("the test's server cannot listen on the loopback interface");
    hub->port = ntohs(address.sin_port);
    if (pthread_create(&hub->thread, NULL, serve, hub) != 0) fail_msg("the test's server has no thread");
}

void hub_stop(struct hub *hub) {
    shutdown(hub->listener, SHUT_RDWR);
    pthread_join(hub->thread, NULL);
    close(hub->listener);
}

int hub_requests(const struct hub *hub, const char *part, const char *other) {
    int count = 0;
    for (int i = 0; i < hub->lines; i++)
        if (strstr(hub->log[i], part) && strstr(hub->log[i], other)) count++;
    return count;
}
