/* The watch over ranks on several nodes, without MPI: this process is rank 0, its children are the others. */
#include "tests/support/check.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/comm/watch.h"

/* What rank 0's watch has said: the rank, × 2, + 1 where it had said that it fails. −1: nothing. */
static atomic_int said;
static char said_node[WATCH_NAME];

static void note(int rank, const char *node, bool failed) {
    snprintf(said_node, sizeof said_node, "%s", node);
    said = 2 * rank + failed;
}

static void sleep_milliseconds(long milliseconds) {
    struct timespec time = {.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000};
    nanosleep(&time, NULL);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Waits until the watch has said something, for so many seconds. */
static int wait_for_word(double seconds) {
    for (double begin = now(); said < 0 && now() - begin < seconds;) sleep_milliseconds(5);
    return said;
}

/* A rank: joins, says so, waits for its order and obeys: c(lose), f(ail), anything else: end without a word.
 */
struct child {
    pid_t process;
    int order; /* the writing end of its pipe */
};

static void end_child(int rank, const char *node, bool failed) {
    (void)rank, (void)node;
    _exit(failed ? 4 : 3);
}

static struct child new_child(const struct watch_invitation *invitation, int rank) {
    int orders[2], joined[2];
    char word = 0;
    assert_int_equal(pipe(orders), 0);
    assert_int_equal(pipe(joined), 0);
    pid_t process = fork();
    assert_true(process >= 0);
    if (process == 0) {
        close(orders[1]);
        struct watch *watch = watch_join(invitation, rank, "node7", end_child);
        word = watch ? 'y' : 'n';
        if (write(joined[1], &word, 1) != 1 || read(orders[0], &word, 1) != 1) _exit(1);
        if (word == 'f') watch_failing(watch);
        if (word == 'c') watch_close(watch);
        _exit(0);
    }
    close(orders[0]);
    close(joined[1]);
    assert_int_equal(read(joined[0], &word, 1), 1);
    assert_int_equal(word, 'y');
    close(joined[0]);
    return (struct child){.process = process, .order = orders[1]};
}

static void give_order(const struct child *child, char order) {
    assert_int_equal(write(child->order, &order, 1), 1);
}

static int exit_code(const struct child *child) {
    int status = 0;
    assert_int_equal(waitpid(child->process, &status, 0), child->process);
    close(child->order);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static struct watch *listen_here(struct watch_invitation *invitation) {
    said = -1;
    struct watch *watch = watch_listen(invitation, "", "node0", note);
    assert_non_null(watch);
    assert_true(invitation->count > 0);
    return watch;
}

static void test_goodbye(void **state) {
    (void)state;
    struct watch_invitation invitation;
    struct watch *watch = listen_here(&invitation);
    struct child first = new_child(&invitation, 1), second = new_child(&invitation, 2);
    give_order(&first, 'c'); /* waits for rank 0's goodbye for a while */
    give_order(&second, 'c');
    sleep_milliseconds(50);
    watch_close(watch);
    assert_int_equal(exit_code(&first), 0);
    assert_int_equal(exit_code(&second), 0);
    assert_int_equal(said, -1);
}

static void test_lost(void **state) {
    (void)state;
    for (int kills = 0; kills < 2; kills++) {
        struct watch_invitation invitation;
        struct watch *watch = listen_here(&invitation);
        struct child first = new_child(&invitation, 1), second = new_child(&invitation, 2);
        if (kills)
            kill(second.process, SIGKILL);
        else
            give_order(&second, 'x');
        assert_int_equal(wait_for_word(5), 2 * 2);
        assert_string_equal(said_node, "node7");
        assert_int_equal(exit_code(&second), kills ? 128 + SIGKILL : 0);
        watch_failing(watch); /* what rank 0 does then */
        watch_close(watch);
        give_order(&first, 'c');
        exit_code(&first);
    }
}

/* Who has said why it fails is not missed at once, but the others do not stay for ever. */
static void test_failing(void **state) {
    (void)state;
    struct watch_invitation invitation;
    struct watch *watch = listen_here(&invitation);
    struct child first = new_child(&invitation, 1);
    double begin = now();
    give_order(&first, 'f');
    assert_int_equal(wait_for_word(WATCH_LAUNCHER_SECONDS + 5), 2 * 1 + 1);
    assert_true(now() - begin > WATCH_LAUNCHER_SECONDS - 0.1);
    assert_int_equal(exit_code(&first), 0);
    watch_close(watch);
}

/* Rank 0's end is noticed by the others. */
static void test_first_lost(void **state) {
    (void)state;
    struct watch_invitation invitation;
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t leader = fork();
    assert_true(leader >= 0);
    if (leader == 0) {
        watch_listen(&invitation, NULL, "node0", note);
        if (write(ready[1], &invitation, sizeof invitation) != sizeof invitation) _exit(1);
        for (;;) pause();
    }
    assert_int_equal(read(ready[0], &invitation, sizeof invitation), sizeof invitation);
    struct child first = new_child(&invitation, 1);
    kill(leader, SIGKILL);
    assert_int_equal(waitpid(leader, NULL, 0), leader);
    assert_int_equal(exit_code(&first), 3);
}

/* Strangers, with a wrong token or without any, are turned away and missed by nobody. */
static void test_strangers(void **state) {
    (void)state;
    struct watch_invitation invitation;
    struct watch *watch = listen_here(&invitation);
    struct watch_invitation forged = invitation;
    forged.token++;
    assert_null(watch_join(&forged, 1, "node7", end_child));
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = invitation.port, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int stranger = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(stranger, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(send(stranger, "GET /", 5, 0), 5);
    close(stranger);
    assert_int_equal(wait_for_word(0.3), -1);
    forged = invitation;
    forged.count = 0; /* nobody listens */
    assert_null(watch_join(&forged, 1, "node7", end_child));
    watch_close(watch);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_goodbye), cmocka_unit_test(test_lost),
                                       cmocka_unit_test(test_failing), cmocka_unit_test(test_first_lost),
                                       cmocka_unit_test(test_strangers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
