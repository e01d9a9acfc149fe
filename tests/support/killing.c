#include "tests/support/killing.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/check.h"
#include "tests/support/command.h"

enum { MOST_RANKS = 16 };

static void sleep_ms(long milliseconds) {
    nanosleep(&(struct timespec){.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000},
              NULL);
}

struct killable killable_start(const char *folder, int ranks, const char *command) {
    struct killable run = {.ranks = xformat("%s/ranks", folder)};
    DIR *old = opendir(run.ranks);
    for (struct dirent *entry; old && (entry = readdir(old));) {
        char *path = xformat("%s/%s", run.ranks, entry->d_name);
        unlink(path); /* "." and ".." stay */
        free(path);
    }
    if (old)
        closedir(old);
    else if (mkdir(run.ranks, 0777) != 0)
        fail_msg("%s: %s", run.ranks, strerror(errno));
    char *launcher = ranks ? xformat(COMMAND_MPIRUN, ranks) : xstrdup("");
    char *line = xformat("exec %ssh -c 'echo >%s/$$; exec %s'", launcher, run.ranks, command);
    fflush(NULL);
    run.process = fork();
    if (run.process == 0) {
        int nothing = open("/dev/null", O_WRONLY);
        command_become(line, nothing, nothing);
    }
    if (run.process < 0) fail_msg("no process: %s", strerror(errno));
    free(line);
    free(launcher);
    return run;
}

bool killable_runs(struct killable *run) {
    int status;
    if (!run->ended && waitpid(run->process, &status, WNOHANG) == run->process) {
        run->ended = true;
        run->exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }
    return !run->ended;
}

static int ascending(const void *a, const void *b) {
    return (*(const pid_t *)a > *(const pid_t *)b) - (*(const pid_t *)a < *(const pid_t *)b);
}

static int find_ranks(const struct killable *run, pid_t ranks[MOST_RANKS]) {
    int count = 0;
    DIR *folder = opendir(run->ranks);
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        if (atoi(entry->d_name) > 0 && count < MOST_RANKS) ranks[count++] = (pid_t)atoi(entry->d_name);
    if (folder) closedir(folder);
    qsort(ranks, (size_t)count, sizeof *ranks, ascending);
    return count;
}

/* Gone, or a zombie that its new parent does not wait for. */
static bool is_gone(pid_t process) {
    char *path = xformat("/proc/%d/stat", (int)process), text[512] = "";
    FILE *file = fopen(path, "re");
    free(path);
    if (!file) return kill(process, 0) != 0;
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = '\0';
    const char *behind_name = strrchr(text, ')');
    return behind_name && behind_name[1] && behind_name[2] == 'Z';
}

void killable_kill(struct killable *run, int rank, double seconds) {
    pid_t ranks[MOST_RANKS];
    int count = find_ranks(run, ranks);
    if (rank >= 0 && rank >= count) fail_msg("%d ranks have started, none is number %d", count, rank);
    kill(rank >= 0 ? ranks[rank] : run->process, SIGKILL);
    for (int i = 0; rank == KILL_ALL && i < count; i++) kill(ranks[i], SIGKILL);
    for (double waited = 0;; waited += 0.01) {
        bool all_gone = !killable_runs(run);
        count = find_ranks(run, ranks);
        for (int i = 0; seconds > 0 && i < count; i++) all_gone = is_gone(ranks[i]) && all_gone;
        if (all_gone) break;
        if (seconds > 0 && waited > seconds) {
            kill(run->process, SIGKILL);
            for (int i = 0; i < count; i++) kill(ranks[i], SIGKILL);
            fail_msg("%g s after the kill there are still processes of the run", seconds);
        }
        sleep_ms(10);
    }
    free(run->ranks);
    run->ranks = NULL;
}
