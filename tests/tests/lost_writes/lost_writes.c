/* Preloaded into a process under test: notes every change that it makes below a folder, and every sync, so that the test
 * can work out afterwards what a loss of power at any moment would have left (disk.rs).
 *
 *   LOST_WRITES_BELOW    the folder, by its real path
 *   LOST_WRITES_CONTROL  a folder with `trace`, to which the changes are added, and with switches, files that may come
 *                        and go: `syncs-lie` (a sync does nothing, and says it has), `syncs-fail` (EIO),
 *                        `writes-fail` (ENOSPC)
 *
 * Always true: a change is in the trace before the call that made it has returned, and in the order in which the kernel
 * made it; a sync is noted only after the disk has said so, with what was in the trace before it began. Nothing is held
 * back from the kernel: what the process reads is what it wrote.
 *
 * Not seen: what doesn't come through these functions of libc (system calls made directly, files mapped to be written,
 * stdio). The test holds the trace against the folder, and so finds out if something was missed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { CREATE = 1, WRITE, SIZE, SYNC, RENAME, UNLINK, MKDIR, RMDIR, LINK };

/* As it stands in the trace, followed by the two texts or contents. */
struct head {
    uint32_t kind, first, second, unused;
    uint64_t inode, number;
};

#define FILES 65536
/* The inode that each descriptor was opened on, if it is below the folder. */
static uint64_t opened[FILES];
static char below[PATH_MAX], control[PATH_MAX];
static size_t below_length;
static int trace = -1;
/* How long the trace is. */
static uint64_t length;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ({ static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name); real; })

static void give_up(const char *why) {
    fprintf(stderr, "lost_writes: %s: %s\n", why, strerror(errno));
    abort();
}

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("LOST_WRITES_BELOW"), *home = getenv("LOST_WRITES_CONTROL");
    if (!folder || !home) return;
    snprintf(below, sizeof below, "%s", folder);
    snprintf(control, sizeof control, "%s", home);
    below_length = strlen(below);
    char path[PATH_MAX + 8];
    snprintf(path, sizeof path, "%s/trace", control);
    trace = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    struct stat found;
    if (trace < 0 || fstat(trace, &found) < 0) give_up("the trace can't be opened");
    length = (uint64_t)found.st_size;
}

/* With the lock held, after the change. */
static void note(enum kind kind, uint64_t inode, uint64_t number, const void *first, size_t first_length,
                 const void *second, size_t second_length) {
    struct head head = {kind, (uint32_t)first_length, (uint32_t)second_length, 0, inode, number};
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)first, first_length}, {(void *)second, second_length}};
    size_t whole = sizeof head + first_length + second_length;
    if (syscall(SYS_writev, trace, parts, 3) != (long)whole) give_up("the trace can't be written");
    length += whole;
}

static void note_path(enum kind kind, uint64_t inode, const char *first, const char *second) {
    note(kind, inode, 0, first, strlen(first), second, second ? strlen(second) : 0);
}

static int is_on(const char *name) {
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/%s", control, name);
    return access(path, F_OK) == 0;
}

/* The path below the folder ("" for the folder itself), written into `whole`; NULL if it is elsewhere. */
static const char *inside(int dir, const char *path, char whole[PATH_MAX]) {
    if (trace < 0) return NULL;
    if (path[0] == '/') {
        snprintf(whole, PATH_MAX, "%s", path);
    } else {
        char at[PATH_MAX] = "", link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        if (dir == AT_FDCWD ? !getcwd(at, sizeof at) : readlink(link, at, sizeof at - 1) < 0) return NULL;
        if (snprintf(whole, PATH_MAX, "%s/%s", at, path) >= PATH_MAX) return NULL;
    }
    if (strncmp(whole, below, below_length) != 0) return NULL;
    const char *rest = whole + below_length;
    return *rest == 0 ? rest : *rest == '/' ? rest + 1 : NULL;
}

/* The inode of a descriptor that was opened below the folder, or 0. Its number may belong to something else by now. */
static uint64_t inode_of(int file) {
    if (file < 0 || file >= FILES || opened[file] == 0) return 0;
    struct stat found;
    if (fstat(file, &found) == 0 && found.st_ino == opened[file] && (S_ISREG(found.st_mode) || S_ISDIR(found.st_mode)))
        return opened[file];
    opened[file] = 0;
    return 0;
}

static int do_open(int dir, const char *path, int flags, mode_t mode) {
    static int (*real)(int, const char *, int, ...);
    if (!real) real = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat");
    char whole[PATH_MAX];
    const char *name = inside(dir, path, whole);
    if (!name) {
        int file = real(dir, path, flags, mode);
        if (file >= 0 && file < FILES) opened[file] = 0;
        return file;
    }
    pthread_mutex_lock(&lock);
    struct stat before, now;
    int was_there = fstatat(dir, path, &before, 0) == 0;
    int file = real(dir, path, flags, mode), cause = errno;
    if (file >= FILES) give_up("more descriptors than there is room for");
    if (file >= 0 && fstat(file, &now) == 0) {
        opened[file] = now.st_ino;
        if (!was_there) note_path(CREATE, now.st_ino, name, NULL);
        else if ((flags & O_TRUNC) && before.st_size > 0) note(SIZE, now.st_ino, 0, NULL, 0, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    errno = cause;
    return file;
}

#define MODE(flags) ({ mode_t mode = 0; if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); } mode; })

int open(const char *path, int flags, ...) { return do_open(AT_FDCWD, path, flags, MODE(flags)); }
int open64(const char *path, int flags, ...) { return do_open(AT_FDCWD, path, flags, MODE(flags)); }
int openat(int dir, const char *path, int flags, ...) { return do_open(dir, path, flags, MODE(flags)); }
int openat64(int dir, const char *path, int flags, ...) { return do_open(dir, path, flags, MODE(flags)); }
int creat(const char *path, mode_t mode) { return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

/* A write, wherever it goes: `at` < 0 is the place of the descriptor. */
static ssize_t do_write(int file, const struct iovec *parts, int count, off_t at) {
    uint64_t inode = inode_of(file);
    if (!inode) return at < 0 ? syscall(SYS_writev, file, parts, count) : syscall(SYS_pwritev, file, parts, count, at, 0);
    if (is_on("writes-fail")) { errno = ENOSPC; return -1; }
    pthread_mutex_lock(&lock);
    ssize_t done = at < 0 ? REAL(writev)(file, parts, count) : pwritev(file, parts, count, at);
    int cause = errno;
    if (done > 0) {
        off_t from = at < 0 ? lseek(file, 0, SEEK_CUR) - done : at;
        ssize_t left = done;
        for (int part = 0; part < count && left > 0; part++) {
            size_t size = parts[part].iov_len < (size_t)left ? parts[part].iov_len : (size_t)left;
            note(WRITE, inode, (uint64_t)from, parts[part].iov_base, size, NULL, 0);
            from += (off_t)size;
            left -= (ssize_t)size;
        }
    }
    pthread_mutex_unlock(&lock);
    errno = cause;
    return done;
}

static ssize_t write_one(int file, const void *from, size_t size, off_t at) {
    struct iovec part = {(void *)from, size};
    return do_write(file, &part, 1, at);
}

ssize_t write(int file, const void *from, size_t size) {
    return inode_of(file) ? write_one(file, from, size, -1) : REAL(write)(file, from, size);
}
ssize_t writev(int file, const struct iovec *parts, int count) {
    return inode_of(file) ? do_write(file, parts, count, -1) : REAL(writev)(file, parts, count);
}
ssize_t pwrite(int file, const void *from, size_t size, off_t at) {
    return inode_of(file) ? write_one(file, from, size, at) : REAL(pwrite)(file, from, size, at);
}
ssize_t pwrite64(int file, const void *from, size_t size, off64_t at) {
    return inode_of(file) ? write_one(file, from, size, at) : REAL(pwrite64)(file, from, size, at);
}

/* What may change the size of a file, which is noted if it has. */
#define RESIZING(file, call) ({ \
    uint64_t inode = inode_of(file); \
    struct stat before = {0}, now = {0}; \
    if (inode) { pthread_mutex_lock(&lock); fstat(file, &before); } \
    __typeof__(call) done = call; \
    int cause = errno; \
    if (inode) { \
        if (fstat(file, &now) == 0 && now.st_size != before.st_size) note(SIZE, inode, (uint64_t)now.st_size, NULL, 0, NULL, 0); \
        pthread_mutex_unlock(&lock); \
    } \
    errno = cause; \
    done; })

int ftruncate(int file, off_t size) { return RESIZING(file, REAL(ftruncate)(file, size)); }
int ftruncate64(int file, off64_t size) { return RESIZING(file, REAL(ftruncate64)(file, size)); }
int fallocate(int file, int mode, off_t from, off_t size) { return RESIZING(file, REAL(fallocate)(file, mode, from, size)); }
int fallocate64(int file, int mode, off64_t from, off64_t size) { return RESIZING(file, REAL(fallocate64)(file, mode, from, size)); }
int posix_fallocate(int file, off_t from, off_t size) { return RESIZING(file, REAL(posix_fallocate)(file, from, size)); }
int posix_fallocate64(int file, off64_t from, off64_t size) { return RESIZING(file, REAL(posix_fallocate64)(file, from, size)); }

static int do_sync(int file, int (*real)(int)) {
    uint64_t inode = inode_of(file);
    if (!inode) return real(file);
    if (is_on("syncs-fail")) { errno = EIO; return -1; }
    if (is_on("syncs-lie")) return 0;
    pthread_mutex_lock(&lock);
    uint64_t before = length;
    pthread_mutex_unlock(&lock);
    int done = real(file), cause = errno;
    if (done == 0) {
        pthread_mutex_lock(&lock);
        note(SYNC, inode, before, NULL, 0, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    errno = cause;
    return done;
}

int fsync(int file) { return do_sync(file, REAL(fsync)); }
int fdatasync(int file) { return do_sync(file, REAL(fdatasync)); }

/* A change of names: made and noted together. */
#define NAMING(kind, path, call) ({ \
    char whole[PATH_MAX]; \
    const char *name = inside(AT_FDCWD, path, whole); \
    if (name) pthread_mutex_lock(&lock); \
    int done = call, cause = errno; \
    if (name) { \
        struct stat now = {0}; \
        if (done == 0) { if (kind == MKDIR) stat(path, &now); note_path(kind, now.st_ino, name, NULL); } \
        pthread_mutex_unlock(&lock); \
    } \
    errno = cause; \
    done; })

int unlink(const char *path) { return NAMING(UNLINK, path, REAL(unlink)(path)); }
int rmdir(const char *path) { return NAMING(RMDIR, path, REAL(rmdir)(path)); }
int mkdir(const char *path, mode_t mode) { return NAMING(MKDIR, path, REAL(mkdir)(path, mode)); }

int unlinkat(int dir, const char *path, int flags) {
    char whole[PATH_MAX];
    const char *name = inside(dir, path, whole);
    if (name) pthread_mutex_lock(&lock);
    int done = REAL(unlinkat)(dir, path, flags), cause = errno;
    if (name) {
        if (done == 0) note_path(flags & AT_REMOVEDIR ? RMDIR : UNLINK, 0, name, NULL);
        pthread_mutex_unlock(&lock);
    }
    errno = cause;
    return done;
}

#define MOVING(kind, from, to, call) ({ \
    char whole_from[PATH_MAX], whole_to[PATH_MAX]; \
    const char *old = inside(AT_FDCWD, from, whole_from), *new = inside(AT_FDCWD, to, whole_to); \
    if (!old != !new) { errno = EXDEV; give_up("a name crosses the folder's border"); } \
    if (old) pthread_mutex_lock(&lock); \
    int done = call, cause = errno; \
    if (old) { if (done == 0) note_path(kind, 0, old, new); pthread_mutex_unlock(&lock); } \
    errno = cause; \
    done; })

int rename(const char *from, const char *to) { return MOVING(RENAME, from, to, REAL(rename)(from, to)); }
int link(const char *from, const char *to) { return MOVING(LINK, from, to, REAL(link)(from, to)); }
