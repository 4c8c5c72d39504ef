/* What a disk may do to a program: preloaded into a stage, it counts the calls that change files below a folder, and
 * at a chosen one lets them fail from there on (a full disk), or kills the process before or after it. It can also
 * write down every such call, for tests/faults/power_loss.py.
 *
 * The control block is a file that the test maps as well (stage_server.py, which has the same layout): it is shared by
 * all processes that a stage starts.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT = 0, FAIL = 1, KILL_BEFORE = 2, KILL_AFTER = 3, FAIL_ONCE = 4, SHORT = 5 };
enum { SIGNAL = 10, TWO_SIGNALS = 11 }; /* modes as well; `error` is the signal's number */
enum { GO_ON = 0, REFUSE = 1, DIE_AFTER = 2, HALVE = 3 };
enum { WRITE = 1, CREATE = 2, SYNC = 4, RENAME = 8, REMOVE = 16, MKDIR = 32, LINK = 64, RESIZE = 128 };

struct control {
    int32_t mode;
    int32_t error;    /* errno of FAIL */
    int32_t mask;     /* kinds of calls that count */
    int32_t logging;
    int64_t at;       /* the call, from 1, at which it happens */
    int64_t count;    /* calls so far */
    char root[1024];  /* only paths below it count */
    char match[1024]; /* only paths that contain it count */
};

static struct control *control;
static int log_fd = -1;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    return dlsym(RTLD_NEXT, name);
}

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("FAULT_CONTROL");
    if (!path) return;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *map = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (map == MAP_FAILED) return;
    control = map;
    char log[PATH_MAX];
    snprintf(log, sizeof log, "%s.log", path);
    log_fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (log_fd >= 0 && log_fd < 200) { /* out of the way of what the program closes and duplicates */
        int high = fcntl(log_fd, F_DUPFD_CLOEXEC, 200);
        syscall(SYS_close, log_fd);
        log_fd = high;
    }
}

/* The absolute path of what a call is about, in `out`; 0 where it is none of ours. */
static int absolute(int folder, const char *path, char *out) {
    char base[PATH_MAX] = "";
    if (path && path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
    } else {
        char link[64];
        if (folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = syscall(SYS_readlink, link, base, sizeof base - 1);
        if (length <= 0) return 0;
        base[length] = 0;
        if (path) snprintf(out, PATH_MAX, "%.2040s/%.2040s", base, path);
        else snprintf(out, PATH_MAX, "%s", base);
    }
    size_t length = strlen(control->root);
    if (!length || strncmp(out, control->root, length - 1)) return 0;
    return out[length - 1] == '/' || !out[length - 1]; /* the root itself is one of them */
}

static void note(const char *kind, const char *path, const char *other) {
    if (!control->logging || log_fd < 0) return;
    char line[3 * PATH_MAX];
    int length = snprintf(line, sizeof line, "%s\t%s\t%s\n", kind, path, other ? other : "");
    if (length > 0) syscall(SYS_write, log_fd, line, (size_t)length);
}

/* Send the process group the signal of this call, if it has one. */
static void send_signal(int64_t number) {
    int64_t last = control->at + (control->mode == TWO_SIGNALS);
    if (control->mode >= SIGNAL && number >= control->at && number <= last) kill(0, control->error);
}

/* What happens to a call of this kind about this path. */
static int decide(int kind, const char *path) {
    if (!(control->mask & kind)) return GO_ON;
    if (control->match[0] && !strstr(path, control->match)) return GO_ON;
    int64_t number = __atomic_add_fetch(&control->count, 1, __ATOMIC_SEQ_CST);
    send_signal(number);
    if (control->mode == FAIL && number >= control->at) return REFUSE;
    if (control->mode == SHORT && number >= control->at) return HALVE;
    if (number != control->at) return GO_ON;
    if (control->mode == FAIL_ONCE) return REFUSE;
    if (control->mode == KILL_BEFORE) kill(getpid(), SIGKILL);
    return control->mode == KILL_AFTER ? DIE_AFTER : GO_ON;
}

/* Of so many bytes that are to be written, those that are: a write may be short, and its caller has to notice. */
static size_t part(int what, size_t size) {
    return what == HALVE && size > 1 ? size / 2 : size;
}

/* A call of a kind about a path: decide, do, note. */
#define DONE(kind, name, path, other, type, call)                  \
    do {                                                           \
        what = decide(kind, path);                                 \
        if (what == REFUSE) {                                         \
            errno = control->error;                                \
            return -1;                                             \
        }                                                          \
        type result = call;                                        \
        if (result >= 0) note(name, path, other);                  \
        if (what == DIE_AFTER) kill(getpid(), SIGKILL);            \
        return result;                                             \
    } while (0)

#define ABOUT_FD(kind, name, fd, type, call)                       \
    char path[PATH_MAX];                                           \
    int what = GO_ON;                                              \
    if (!control || !absolute(fd, NULL, path)) return call;        \
    DONE(kind, name, path, NULL, type, call)

ssize_t write(int fd, const void *data, size_t size) {
    ABOUT_FD(WRITE, "write", fd, ssize_t, REAL(write)(fd, data, part(what, size)));
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    ABOUT_FD(WRITE, "write", fd, ssize_t, REAL(writev)(fd, parts, what == HALVE ? 1 : count));
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    ABOUT_FD(WRITE, "write", fd, ssize_t, REAL(pwrite)(fd, data, part(what, size), at));
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    ABOUT_FD(WRITE, "write", fd, ssize_t, REAL(pwrite64)(fd, data, part(what, size), at));
}
ssize_t sendfile(int out, int in, off_t *at, size_t size) {
    ABOUT_FD(WRITE, "write", out, ssize_t, REAL(sendfile)(out, in, at, part(what, size)));
}
ssize_t sendfile64(int out, int in, off64_t *at, size_t size) {
    ABOUT_FD(WRITE, "write", out, ssize_t, REAL(sendfile64)(out, in, at, part(what, size)));
}
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
    ABOUT_FD(WRITE, "write", out, ssize_t, REAL(copy_file_range)(in, from, out, to, part(what, size), flags));
}
int ftruncate(int fd, off_t size) {
    ABOUT_FD(RESIZE, "write", fd, int, REAL(ftruncate)(fd, size));
}
int ftruncate64(int fd, off64_t size) {
    ABOUT_FD(RESIZE, "write", fd, int, REAL(ftruncate64)(fd, size));
}
int fsync(int fd) {
    ABOUT_FD(SYNC, "sync", fd, int, REAL(fsync)(fd));
}
int fdatasync(int fd) {
    ABOUT_FD(SYNC, "sync", fd, int, REAL(fdatasync)(fd));
}

static int creates(int folder, const char *path, int flags, char *whole) {
    if (!control || !(flags & O_CREAT) || !absolute(folder, path, whole)) return 0;
    return syscall(SYS_faccessat, AT_FDCWD, whole, F_OK) != 0;
}

#define MODE(flags, mode)                                          \
    mode_t mode = 0;                                               \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                         \
        va_list rest;                                              \
        va_start(rest, flags);                                     \
        mode = va_arg(rest, mode_t);                               \
        va_end(rest);                                              \
    }

#define OPENS(folder, path, flags, call)                                                        \
    char whole[PATH_MAX];                                                                       \
    int what = GO_ON;                                                                           \
    if (creates(folder, path, flags, whole)) DONE(CREATE, "create", whole, NULL, int, call);    \
    if (control && (flags & O_TRUNC) && absolute(folder, path, whole)) note("write", whole, NULL); \
    return call

int open(const char *path, int flags, ...) {
    MODE(flags, mode)
    OPENS(AT_FDCWD, path, flags, REAL(open)(path, flags, mode));
}
int open64(const char *path, int flags, ...) {
    MODE(flags, mode)
    OPENS(AT_FDCWD, path, flags, REAL(open64)(path, flags, mode));
}
int openat(int folder, const char *path, int flags, ...) {
    MODE(flags, mode)
    OPENS(folder, path, flags, REAL(openat)(folder, path, flags, mode));
}
int openat64(int folder, const char *path, int flags, ...) {
    MODE(flags, mode)
    OPENS(folder, path, flags, REAL(openat64)(folder, path, flags, mode));
}

#define ABOUT_PATH(kind, name, folder, path, call)                 \
    char whole[PATH_MAX];                                          \
    int what = GO_ON;                                              \
    if (!control || !absolute(folder, path, whole)) return call;   \
    DONE(kind, name, whole, NULL, int, call)

int mkdir(const char *path, mode_t mode) {
    ABOUT_PATH(MKDIR, "mkdir", AT_FDCWD, path, REAL(mkdir)(path, mode));
}
int mkdirat(int folder, const char *path, mode_t mode) {
    ABOUT_PATH(MKDIR, "mkdir", folder, path, REAL(mkdirat)(folder, path, mode));
}
int unlink(const char *path) {
    ABOUT_PATH(REMOVE, "remove", AT_FDCWD, path, REAL(unlink)(path));
}
int unlinkat(int folder, const char *path, int flags) {
    ABOUT_PATH(REMOVE, "remove", folder, path, REAL(unlinkat)(folder, path, flags));
}
int rmdir(const char *path) {
    ABOUT_PATH(REMOVE, "remove", AT_FDCWD, path, REAL(rmdir)(path));
}

#define ABOUT_TWO(kind, name, from_folder, from, to_folder, to, call)                                \
    char whole[PATH_MAX], source[PATH_MAX];                                                          \
    int what = GO_ON;                                                                                \
    if (!control || !absolute(to_folder, to, whole)) return call;                                    \
    absolute(from_folder, from, source);                                                             \
    DONE(kind, name, whole, source, int, call)

int rename(const char *from, const char *to) {
    ABOUT_TWO(RENAME, "rename", AT_FDCWD, from, AT_FDCWD, to, REAL(rename)(from, to));
}
int renameat(int a, const char *from, int b, const char *to) {
    ABOUT_TWO(RENAME, "rename", a, from, b, to, REAL(renameat)(a, from, b, to));
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    const char *name = flags & RENAME_EXCHANGE ? "exchange" : "rename";
    ABOUT_TWO(RENAME, name, a, from, b, to, REAL(renameat2)(a, from, b, to, flags));
}
int link(const char *from, const char *to) {
    ABOUT_TWO(LINK, "link", AT_FDCWD, from, AT_FDCWD, to, REAL(link)(from, to));
}
int linkat(int a, const char *from, int b, const char *to, int flags) {
    ABOUT_TWO(LINK, "link", a, from, b, to, REAL(linkat)(a, from, b, to, flags));
}
