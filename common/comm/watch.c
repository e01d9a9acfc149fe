#include "common/comm/watch.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/error.h"

enum { PATIENCE = 2000 }; /* milliseconds, for a peer that should answer at once */

/* What is said on a connection: who joins says hello, rank 0 returns the token; in the end one of the words.
 */
struct hello {
    uint64_t token;
    int32_t rank;
    char node[WATCH_NAME];
};
enum word { NO_WORD = 0, GOODBYE = 'g', FAILING = 'f' };

/* The other end of a connection. */
struct peer {
    int socket;       /* -1: closed */
    size_t got;       /* bytes of its hello, on rank 0 */
    enum word parted; /* its last word */
    struct hello hello;
};

struct watch {
    pthread_t thread;
    pthread_mutex_t lock; /* of peers, between the thread and who sends a word */
    struct peer *peers;
    int count;
    int listening;   /* the socket on which others knock; -1: none */
    int wake[2];     /* a pipe: when its writing end is closed, the thread ends */
    uint64_t answer; /* the token */
    watch_lost *lost;
};

/* ---- sockets ---- */

static void set_option(int socket, int level, int name, int value) {
    /* One that is unknown here leaves the watch less watchful: no error. */
    (void)setsockopt(socket, level, name, &value, sizeof value);
}

/* A machine that is gone answers no probes: the connection breaks after WATCH_SECONDS. */
static void keep_alive(int socket) {
    enum { PROBES = 3 };
    set_option(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
#ifdef TCP_KEEPIDLE
    set_option(socket, IPPROTO_TCP, TCP_KEEPIDLE, WATCH_SECONDS / (PROBES + 1));
    set_option(socket, IPPROTO_TCP, TCP_KEEPINTVL, WATCH_SECONDS / (PROBES + 1));
    set_option(socket, IPPROTO_TCP, TCP_KEEPCNT, PROBES);
#endif
#ifdef TCP_USER_TIMEOUT
    set_option(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, WATCH_SECONDS * 1000);
#endif
}

static bool wait_for(int socket, short events) {
    struct pollfd look = {.fd = socket, .events = events};
    return poll(&look, 1, PATIENCE) == 1;
}

static int new_socket(void) {
    return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* A few bytes into an empty buffer: all or an error. */
static bool say(int socket, const void *data, size_t bytes) {
    return send(socket, data, bytes, MSG_NOSIGNAL) == (ssize_t)bytes;
}

static void close_socket(int *socket) {
    if (*socket >= 0) close(*socket);
    *socket = -1;
}

/* ---- the thread ---- */

static void part_with(struct peer *peer) {
    close_socket(&peer->socket);
}

/* On rank 0: somebody knocks. */
static void let_in(struct watch *watch) {
    int socket = accept4(watch->listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (socket < 0) return;
    keep_alive(socket);
    watch->peers = xrealloc(watch->peers, (size_t)(watch->count + 1) * sizeof *watch->peers);
    watch->peers[watch->count++] = (struct peer){.socket = socket};
}

/* More of a hello; whose it is not, is turned away. */
static void hear_hello(struct watch *watch, struct peer *peer) {
    char *to = (char *)&peer->hello + peer->got;
    ssize_t bytes = recv(peer->socket, to, sizeof peer->hello - peer->got, 0);
    if (bytes < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (bytes > 0) peer->got += (size_t)bytes;
    bool whole = peer->got == sizeof peer->hello;
    peer->hello.node[WATCH_NAME - 1] = '\0';
    bool refused = whole && peer->hello.token != watch->answer;
    if (bytes <= 0 || refused || (whole && !say(peer->socket, &watch->answer, sizeof watch->answer)))
        part_with(peer);
}

/* A last word, or the end: true where it comes without a goodbye. */
static bool hear_end(struct peer *peer) {
    char word;
    ssize_t bytes = recv(peer->socket, &word, 1, 0);
    if (bytes < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (bytes > 0) {
        if (word == GOODBYE || word == FAILING) peer->parted = (enum word)word;
        return false;
    }
    part_with(peer);
    return peer->parted != GOODBYE;
}

static bool hear(struct watch *watch, struct peer *peer) {
    if (peer->got == sizeof peer->hello) return hear_end(peer);
    hear_hello(watch, peer);
    return false;
}

/* Looks once at all sockets, and waits for one to have news. The peer that is lost, or NULL; `*ended` when
 * the watch is to end. */
static struct peer *look(struct watch *watch, bool *ended) {
    int count = watch->count; /* only this thread adds any */
    struct pollfd *looks = xcalloc((size_t)count + 2, sizeof *looks);
    looks[0] = (struct pollfd){.fd = watch->wake[0], .events = POLLIN};
    looks[1] = (struct pollfd){.fd = watch->listening, .events = POLLIN};
    for (int i = 0; i < count; i++)
        looks[2 + i] = (struct pollfd){.fd = watch->peers[i].socket, .events = POLLIN};
    poll(looks, (nfds_t)count + 2, -1);
    struct peer *lost = NULL;
    pthread_mutex_lock(&watch->lock);
    for (int i = 0; i < count; i++)
        if (looks[2 + i].revents && hear(watch, &watch->peers[i]) && !lost) lost = &watch->peers[i];
    if (looks[1].revents) let_in(watch);
    pthread_mutex_unlock(&watch->lock);
    *ended = looks[0].revents != 0;
    free(looks);
    return *ended ? NULL : lost;
}

/* Waits for so many seconds, or until the watch is to end. */
static bool is_to_end(const struct watch *watch, int seconds) {
    struct pollfd wake = {.fd = watch->wake[0], .events = POLLIN};
    return poll(&wake, 1, seconds * 1000) == 1;
}

static void *run_thread(void *self) {
    struct watch *watch = self;
    bool ended = false;
    while (!ended) {
        struct peer *lost = look(watch, &ended);
        if (!lost) continue;
        struct hello hello = lost->hello;
        bool failed = lost->parted == FAILING;
        if (failed && is_to_end(watch, WATCH_LAUNCHER_SECONDS)) break;
        watch->lost(hello.rank, hello.node, failed);
        break;
    }
    return NULL;
}

/* Signals are for the thread that trains. */
static bool start_thread(struct watch *watch) {
    sigset_t all, before;
    if (pipe2(watch->wake, O_CLOEXEC)) return false;
    pthread_mutex_init(&watch->lock, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool started = !pthread_create(&watch->thread, NULL, run_thread, watch);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

static void release(struct watch *watch) {
    for (int i = 0; i < watch->count; i++) close_socket(&watch->peers[i].socket);
    close_socket(&watch->listening);
    close_socket(&watch->wake[0]);
    close_socket(&watch->wake[1]);
    free(watch->peers);
    free(watch);
}

static struct watch *started(struct watch *watch) {
    if (start_thread(watch)) return watch;
    release(watch);
    return NULL;
}

/* ---- opening ---- */

/* Addresses under which others may reach this machine; its loopback last, for nodes that are one machine. */
static void find_addresses(struct watch_invitation *invitation, const char *interface) {
    struct ifaddrs *all = NULL;
    if (getifaddrs(&all)) all = NULL;
    for (struct ifaddrs *i = all; i && invitation->count < WATCH_ADDRESSES - 1; i = i->ifa_next) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET) continue;
        if (!(i->ifa_flags & IFF_UP) || (i->ifa_flags & IFF_LOOPBACK)) continue;
        if (interface && interface[0] && strcmp(i->ifa_name, interface) != 0) continue;
        struct sockaddr_in address;
        memcpy(&address, i->ifa_addr, sizeof address);
        invitation->addresses[invitation->count++] = address.sin_addr.s_addr;
    }
    if (all) freeifaddrs(all);
    invitation->addresses[invitation->count++] = htonl(INADDR_LOOPBACK);
}

struct watch *watch_listen(struct watch_invitation *invitation, const char *interface, const char *node,
                           watch_lost *lost) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
    socklen_t bytes = sizeof address;
    memset(invitation, 0, sizeof *invitation);
    int listening = new_socket();
    if (listening < 0) return NULL;
    if (bind(listening, (struct sockaddr *)&address, bytes) || listen(listening, SOMAXCONN) ||
        getsockname(listening, (struct sockaddr *)&address, &bytes) ||
        getrandom(&invitation->token, sizeof invitation->token, 0) != sizeof invitation->token) {
        close(listening);
        return NULL;
    }
    struct watch *watch = xmalloc(sizeof *watch);
    *watch =
        (struct watch){.listening = listening, .wake = {-1, -1}, .answer = invitation->token, .lost = lost};
    if (!started(watch)) return NULL;
    invitation->port = address.sin_port;
    strncpy(invitation->node, node, WATCH_NAME - 1);
    find_addresses(invitation, interface);
    return watch;
}

/* Connects to one address and says hello: a socket, or −1 where nobody answers with the token. */
static int knock(const struct watch_invitation *invitation, uint32_t at, const struct hello *hello) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = invitation->port, .sin_addr.s_addr = at};
    int socket = new_socket();
    if (socket < 0) return -1;
    keep_alive(socket);
    uint64_t answer = 0;
    bool known = (!connect(socket, (struct sockaddr *)&address, sizeof address) ||
                  (errno == EINPROGRESS && wait_for(socket, POLLOUT))) &&
                 say(socket, hello, sizeof *hello) && wait_for(socket, POLLIN) &&
                 recv(socket, &answer, sizeof answer, 0) == sizeof answer && answer == invitation->token;
    if (!known) close_socket(&socket);
    return socket;
}

struct watch *watch_join(const struct watch_invitation *invitation, int rank, const char *node,
                         watch_lost *lost) {
    struct hello hello = {.token = invitation->token, .rank = rank};
    strncpy(hello.node, node, WATCH_NAME - 1);
    int socket = -1;
    for (int i = 0; i < invitation->count && socket < 0; i++)
        socket = knock(invitation, invitation->addresses[i], &hello);
    if (socket < 0) return NULL;
    struct watch *watch = xmalloc(sizeof *watch);
    *watch = (struct watch){.listening = -1, .wake = {-1, -1}, .count = 1, .lost = lost};
    watch->peers = xmalloc(sizeof *watch->peers);
    watch->peers[0] = (struct peer){.socket = socket, .got = sizeof hello}; /* rank 0 */
    memcpy(watch->peers[0].hello.node, invitation->node, WATCH_NAME);
    watch->peers[0].hello.node[WATCH_NAME - 1] = '\0';
    return started(watch);
}

/* ---- the end ---- */

static void say_to_all(struct watch *watch, enum word word) {
    char byte = (char)word;
    for (int i = 0; i < watch->count; i++)
        if (watch->peers[i].socket >= 0) say(watch->peers[i].socket, &byte, 1);
}

void watch_failing(struct watch *watch) {
    if (!watch) return;
    pthread_mutex_lock(&watch->lock);
    say_to_all(watch, FAILING);
    pthread_mutex_unlock(&watch->lock);
}

/* A socket that is closed with something unread takes back what was said last: so all is read before. */
static void read_rest(int socket) {
    char rest[64];
    while (wait_for(socket, POLLIN) && recv(socket, rest, sizeof rest, 0) > 0) continue;
}

void watch_close(struct watch *watch) {
    if (!watch) return;
    close_socket(&watch->wake[1]);
    pthread_join(watch->thread, NULL);
    say_to_all(watch, GOODBYE);
    for (int i = 0; i < watch->count; i++)
        if (watch->peers[i].socket >= 0) shutdown(watch->peers[i].socket, SHUT_WR);
    for (int i = 0; i < watch->count; i++)
        if (watch->peers[i].socket >= 0) read_rest(watch->peers[i].socket);
    pthread_mutex_destroy(&watch->lock);
    release(watch);
}
