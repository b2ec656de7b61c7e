/* A disk that keeps only what it said it had synced. Preloaded into the program under test.
 *
 * What is always true: at every moment the folder LOST_WRITES_KEPT holds what a loss of power at that moment would leave of
 * the folder LOST_WRITES_DIR, and no more:
 *   inode/N   the content that file N had when it was last synced; of files that only grow, N-NAME: numbers are used again
 *   names     lines: "entry PARENT NAME N" when a file was synced (its name is durable then, as on ext4), and "dir N", then
 *             "has NAME N", ..., when a folder was: all its names, and only those
 * With LOST_WRITES_LIES it says that it has synced and keeps nothing. Once LOST_WRITES_KEPT/fail is there, syncs fail with EIO.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Whether a file may only grow: then what it had before need not be copied again. */
static int grows(const char *name) {
    size_t length = strlen(name);
    return (length > 4 && strcmp(name + length - 4, ".log") == 0) || strncmp(name, "MANIFEST", 8) == 0;
}

static void die(const char *what) {
    perror(what);
    abort();
}

static void keep_content(const char *kept, int fd, const struct stat *is, const char *name) {
    char path[PATH_MAX], block[1 << 16];
    int only_more = grows(name);
    snprintf(path, sizeof path, "%s/inode/%lu%s%s", kept, (unsigned long)is->st_ino, only_more ? "-" : "", only_more ? name : "");
    int to = open(path, O_CREAT | O_WRONLY | (only_more ? 0 : O_TRUNC), 0600);
    if (to < 0) die("lost_writes: open");
    struct stat was;
    fstat(to, &was);
    off_t at = only_more ? was.st_size : 0;
    /* The program's own descriptor may not be readable. */
    char own[64];
    snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
    int from = open(own, O_RDONLY);
    if (from < 0) die("lost_writes: reopen");
    for (ssize_t got; (got = pread(from, block, sizeof block, at)) > 0; at += got)
        if (pwrite(to, block, got, at) != got) die("lost_writes: write");
    close(from);
    close(to);
}

static void keep(int fd) {
    const char *dir = getenv("LOST_WRITES_DIR"), *kept = getenv("LOST_WRITES_KEPT");
    if (!dir || !kept || getenv("LOST_WRITES_LIES")) return;
    char own[64], path[PATH_MAX], parent[PATH_MAX];
    snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(own, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    if (strncmp(path, dir, strlen(dir)) != 0) return;
    struct stat is;
    if (fstat(fd, &is) != 0) return;
    char names[PATH_MAX];
    snprintf(names, sizeof names, "%s/names", kept);
    FILE *out = fopen(names, "a");
    if (!out) die("lost_writes: names");
    if (S_ISDIR(is.st_mode)) {
        fprintf(out, "dir %lu\n", (unsigned long)is.st_ino);
        DIR *all = opendir(path);
        for (struct dirent *one; all && (one = readdir(all));)
            if (strcmp(one->d_name, ".") != 0 && strcmp(one->d_name, "..") != 0)
                fprintf(out, "has %s %lu\n", one->d_name, (unsigned long)one->d_ino);
        if (all) closedir(all);
    } else if (S_ISREG(is.st_mode) && is.st_nlink > 0) {
        char *slash = strrchr(path, '/');
        snprintf(parent, sizeof parent, "%.*s", (int)(slash - path), path);
        struct stat of;
        if (stat(parent, &of) == 0)
            fprintf(out, "entry %lu %s %lu\n", (unsigned long)of.st_ino, slash + 1, (unsigned long)is.st_ino);
        keep_content(kept, fd, &is, slash + 1);
    }
    fclose(out);
}

static int synced(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    const char *kept = getenv("LOST_WRITES_KEPT");
    char fail[PATH_MAX];
    snprintf(fail, sizeof fail, "%s/fail", kept ? kept : "");
    if (kept && access(fail, F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    int done = real(fd);
    if (done == 0) {
        pthread_mutex_lock(&lock);
        keep(fd);
        pthread_mutex_unlock(&lock);
    }
    return done;
}

int fsync(int fd) { return synced("fsync", fd); }

int fdatasync(int fd) { return synced("fdatasync", fd); }
