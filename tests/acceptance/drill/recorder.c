/* Records what a process does to the files below one folder, and what it sends on sockets, in one order.
 *
 * Preloaded (LD_PRELOAD) into a listener by recorder.py, which compiles it and reads the record back. DRILL_ROOT is
 * the folder, DRILL_RECORD the file that the record is appended to.
 *
 * The order is the point. Operations on names and on data are performed and noted under one lock, so that the record
 * is an order in which they may have happened. A flush is noted before it begins and after it succeeded: it vouches
 * only for what was noted before it began. What is sent is noted before it is sent.
 *
 * Not seen: writes through shared mappings (SQLite's -shm, which it rebuilds), system calls made without the C
 * library, children after a fork without exec. recorder.py compares the replayed record with the real files to
 * notice. What is seen but not modelled is noted as such, and fails the drill.
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
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum operation {
    OP_OPEN = 1, OP_CLOSE, OP_WRITE, OP_ZERO, OP_TRUNCATE, OP_ALLOCATE, OP_SYNC_BEGINS, OP_SYNCED, OP_RENAME, OP_LINK,
    OP_UNLINK, OP_MKDIR, OP_RMDIR, OP_SEND, OP_DUP, OP_TIMES, OP_UNMODELLED, OP_PUNCH
};

struct __attribute__((packed)) header {
    uint8_t operation;
    uint32_t process;
    int32_t descriptor;
    int64_t offset; /* or a number of its own: flags, serial, the other descriptor, a time in ns */
    uint64_t length;
    int64_t time_ns;
    uint32_t path_bytes, other_bytes, data_bytes;
};

#define DESCRIPTORS 65536
static unsigned char tracked[DESCRIPTORS]; /* files and folders below the root */
static char root[PATH_MAX];
static size_t root_bytes;
static int record = -1;
static pid_t owner;
static uint64_t serial;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (found == NULL) {
        static const char text[] = "recorder.c: a function of the C library is missing\n";
        (void)!syscall(SYS_write, 2, text, sizeof text - 1);
        abort();
    }
    return found;
}

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("DRILL_ROOT"), *path = getenv("DRILL_RECORD");
    if (folder == NULL || path == NULL) return;
    root_bytes = strlen(folder);
    if (root_bytes >= sizeof root) abort();
    memcpy(root, folder, root_bytes + 1);
    owner = getpid();
    int opened = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (opened < 0) abort();
    record = (int)syscall(SYS_fcntl, opened, F_DUPFD_CLOEXEC, 60000); /* out of the way of low numbers */
    if (record < 0) record = (int)syscall(SYS_fcntl, opened, F_DUPFD_CLOEXEC, 900);
    if (record < 0) abort();
    syscall(SYS_close, opened);
}

/* False in a child between vfork and exec, which shares our memory but is another process. */
static int at_work(void) { return record >= 0 && getpid() == owner; }

static void enter(void) {
    pthread_mutex_lock(&lock);
    syscall(SYS_flock, record, LOCK_EX);
}

static void leave(void) {
    int error = errno;
    syscall(SYS_flock, record, LOCK_UN);
    pthread_mutex_unlock(&lock);
    errno = error;
}

static void note(int operation, int descriptor, int64_t offset, uint64_t length, const char *path, const char *other,
                 const struct iovec *data, int parts) {
    int error = errno;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct header head = {.operation = (uint8_t)operation, .process = (uint32_t)owner, .descriptor = descriptor,
                          .offset = offset, .length = length,
                          .time_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec,
                          .path_bytes = path ? (uint32_t)strlen(path) : 0,
                          .other_bytes = other ? (uint32_t)strlen(other) : 0, .data_bytes = 0};
    struct iovec all[3 + IOV_MAX];
    int n = 3;
    uint64_t left = length;
    for (int i = 0; i < parts && left > 0 && n < IOV_MAX; i++) {
        uint64_t size = data[i].iov_len < left ? data[i].iov_len : left;
        all[n++] = (struct iovec){data[i].iov_base, size};
        head.data_bytes += (uint32_t)size;
        left -= size;
    }
    all[0] = (struct iovec){&head, sizeof head};
    all[1] = (struct iovec){(void *)path, head.path_bytes};
    all[2] = (struct iovec){(void *)other, head.other_bytes};
    size_t expected = sizeof head + head.path_bytes + head.other_bytes + head.data_bytes;
    if (syscall(SYS_writev, record, all, n) != (long)expected) abort();
    errno = error;
}

static int is_tracked(int fd) { return fd >= 0 && fd < DESCRIPTORS && tracked[fd]; }

static int below_root(const char *path) {
    return strncmp(path, root, root_bytes) == 0 && (path[root_bytes] == '/' || path[root_bytes] == 0);
}

/* Absolute path of what a call names; empty when it cannot be told. */
static void absolute(int folder, const char *path, char *result) {
    if (path[0] == '/') {
        snprintf(result, PATH_MAX, "%s", path);
        return;
    }
    char name[64], base[PATH_MAX];
    if (folder == AT_FDCWD)
        snprintf(name, sizeof name, "/proc/self/cwd");
    else
        snprintf(name, sizeof name, "/proc/self/fd/%d", folder);
    ssize_t size = readlink(name, base, sizeof base - 1);
    if (size < 0 || (size_t)size + strlen(path) + 2 > PATH_MAX) {
        result[0] = 0;
        return;
    }
    memcpy(result, base, (size_t)size);
    result[size] = '/';
    strcpy(result + size + 1, path);
}

static void unmodelled(int fd, const char *what) { note(OP_UNMODELLED, fd, 0, 0, what, NULL, NULL, 0); }

/* ---------------------------------------------------------------- open, close */

static int open_and_note(int folder, const char *path, int flags, mode_t mode) {
    if (!at_work()) return (int)syscall(SYS_openat, folder, path, flags, mode);
    char full[PATH_MAX];
    absolute(folder, path, full);
    if (!below_root(full)) {
        int fd = (int)syscall(SYS_openat, folder, path, flags, mode);
        return fd;
    }
    enter();
    int fd = (int)syscall(SYS_openat, folder, path, flags, mode);
    if (fd >= 0) {
        if (fd >= DESCRIPTORS) abort();
        tracked[fd] = 1;
        note(OP_OPEN, fd, flags, 0, full, NULL, NULL, 0);
        if ((flags & O_DSYNC) && (flags & O_ACCMODE) != O_RDONLY) unmodelled(fd, "a file opened to be synchronous");
    }
    leave();
    return fd;
}

#define OPENS(name, folder_parameter, folder)                                  \
    int name(folder_parameter const char *path, int flags, ...) {              \
        va_list rest;                                                          \
        va_start(rest, flags);                                                 \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;\
        va_end(rest);                                                          \
        return open_and_note(folder, path, flags, mode);                       \
    }
#define IN_FOLDER int folder,
#define NOWHERE
OPENS(open, NOWHERE, AT_FDCWD)
OPENS(open64, NOWHERE, AT_FDCWD)
OPENS(openat, IN_FOLDER, folder)
OPENS(openat64, IN_FOLDER, folder)
int __open_2(const char *path, int flags) { return open_and_note(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_and_note(AT_FDCWD, path, flags, 0); }

int close(int fd) {
    if (!at_work() || !is_tracked(fd)) return (int)syscall(SYS_close, fd);
    enter();
    tracked[fd] = 0;
    note(OP_CLOSE, fd, 0, 0, NULL, NULL, NULL, 0);
    int result = (int)syscall(SYS_close, fd);
    leave();
    return result;
}

static int noted_dup(int from, int to) {
    if (to >= 0 && at_work() && is_tracked(from)) {
        enter();
        tracked[to] = 1;
        note(OP_DUP, from, to, 0, NULL, NULL, NULL, 0);
        leave();
    }
    return to;
}
int dup(int fd) { return noted_dup(fd, REAL(dup)(fd)); }
int dup2(int fd, int to) { return noted_dup(fd, REAL(dup2)(fd, to)); }
int dup3(int fd, int to, int flags) { return noted_dup(fd, REAL(dup3)(fd, to, flags)); }

static int fcntl_and_note(int fd, int command, void *argument) {
    int result = (int)syscall(SYS_fcntl, fd, command, argument);
    return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? noted_dup(fd, result) : result;
}
#define FCNTL(name)                                                            \
    int name(int fd, int command, ...) {                                       \
        va_list rest;                                                          \
        va_start(rest, command);                                               \
        void *argument = va_arg(rest, void *);                                 \
        va_end(rest);                                                          \
        return fcntl_and_note(fd, command, argument);                          \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

/* ---------------------------------------------------------------- data */

static int all_zero(const struct iovec *parts, int n, uint64_t length) {
    for (int i = 0; i < n && length > 0; i++) {
        const unsigned char *bytes = parts[i].iov_base;
        uint64_t size = parts[i].iov_len < length ? parts[i].iov_len : length;
        if (size && (bytes[0] || memcmp(bytes, bytes + 1, size - 1))) return 0;
        length -= size;
    }
    return 1;
}

static void note_write(int fd, int64_t offset, int64_t written, const struct iovec *parts, int n) {
    if (written <= 0) return;
    if (written > 1 << 16 && all_zero(parts, n, (uint64_t)written))
        note(OP_ZERO, fd, offset, (uint64_t)written, NULL, NULL, NULL, 0);
    else if (n > IOV_MAX - 3 || written > UINT32_MAX)
        unmodelled(fd, "a write of too many parts or bytes");
    else
        note(OP_WRITE, fd, offset, (uint64_t)written, NULL, NULL, parts, n);
}

/* Where a write without an offset goes; called before it. */
static int64_t position(int fd) {
    if (syscall(SYS_fcntl, fd, F_GETFL) & O_APPEND) {
        struct stat status;
        return fstat(fd, &status) == 0 ? status.st_size : 0;
    }
    return syscall(SYS_lseek, fd, 0, SEEK_CUR);
}

static int is_socket(int fd) {
    struct stat status;
    int error = errno;
    int answer = fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
    errno = error;
    return answer;
}

static void note_send(int fd, const struct iovec *parts, int n) {
    uint64_t length = 0;
    for (int i = 0; i < n; i++) length += parts[i].iov_len;
    enter();
    note(OP_SEND, fd, 0, length, NULL, NULL, parts, n);
    leave();
}

ssize_t write(int fd, const void *bytes, size_t size) {
    struct iovec part = {(void *)bytes, size};
    if (!at_work()) return syscall(SYS_write, fd, bytes, size);
    if (is_tracked(fd)) {
        enter();
        int64_t offset = position(fd);
        ssize_t written = syscall(SYS_write, fd, bytes, size);
        note_write(fd, offset, written, &part, 1);
        leave();
        return written;
    }
    if (is_socket(fd)) note_send(fd, &part, 1);
    return syscall(SYS_write, fd, bytes, size);
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
    if (!at_work()) return syscall(SYS_writev, fd, parts, n);
    if (is_tracked(fd)) {
        enter();
        int64_t offset = position(fd);
        ssize_t written = syscall(SYS_writev, fd, parts, n);
        note_write(fd, offset, written, parts, n);
        leave();
        return written;
    }
    if (is_socket(fd)) note_send(fd, parts, n);
    return syscall(SYS_writev, fd, parts, n);
}

static int sync_and_note(int fd, long call);

static ssize_t write_at(int fd, const struct iovec *parts, int n, off64_t offset, int flags) {
    if (!at_work() || !is_tracked(fd)) return syscall(SYS_pwritev2, fd, parts, n, offset, 0, flags);
    enter();
    if (flags & ~RWF_DSYNC) unmodelled(fd, "pwritev2 with flags");
    ssize_t written = syscall(SYS_pwritev2, fd, parts, n, offset, 0, flags & ~RWF_DSYNC);
    note_write(fd, offset, written, parts, n);
    leave();
    /* a write that is flushed: in two steps, so that a power cut may come between them */
    if (written > 0 && (flags & RWF_DSYNC) && sync_and_note(fd, SYS_fdatasync) != 0) return -1;
    return written;
}
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) {
    struct iovec part = {(void *)bytes, size};
    return write_at(fd, &part, 1, offset, 0);
}
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t offset) {
    struct iovec part = {(void *)bytes, size};
    return write_at(fd, &part, 1, offset, 0);
}
ssize_t pwritev(int fd, const struct iovec *parts, int n, off_t at) { return write_at(fd, parts, n, at, 0); }
ssize_t pwritev64(int fd, const struct iovec *parts, int n, off64_t at) { return write_at(fd, parts, n, at, 0); }
ssize_t pwritev2(int fd, const struct iovec *p, int n, off_t at, int flags) { return write_at(fd, p, n, at, flags); }
ssize_t pwritev64v2(int fd, const struct iovec *p, int n, off64_t at, int flags) {
    return write_at(fd, p, n, at, flags);
}

static int truncate_and_note(int fd, off64_t size) {
    if (!at_work() || !is_tracked(fd)) return (int)syscall(SYS_ftruncate, fd, size);
    enter();
    int result = (int)syscall(SYS_ftruncate, fd, size);
    if (result == 0) note(OP_TRUNCATE, fd, size, 0, NULL, NULL, NULL, 0);
    leave();
    return result;
}
int ftruncate(int fd, off_t size) { return truncate_and_note(fd, size); }
int ftruncate64(int fd, off64_t size) { return truncate_and_note(fd, size); }

static int allocate_and_note(int fd, int mode, off64_t offset, off64_t length) {
    if (!at_work() || !is_tracked(fd)) return (int)syscall(SYS_fallocate, fd, mode, offset, length);
    enter();
    int result = (int)syscall(SYS_fallocate, fd, mode, offset, length);
    if (result == 0) {
        if (mode == 0)
            note(OP_ALLOCATE, fd, offset, (uint64_t)length, NULL, NULL, NULL, 0);
        else if (mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE))
            note(OP_PUNCH, fd, offset, (uint64_t)length, NULL, NULL, NULL, 0);
        else if (mode != FALLOC_FL_KEEP_SIZE)
            unmodelled(fd, "fallocate of another mode");
    }
    leave();
    return result;
}
int fallocate(int fd, int mode, off_t offset, off_t length) { return allocate_and_note(fd, mode, offset, length); }
int fallocate64(int fd, int mode, off64_t at, off64_t length) { return allocate_and_note(fd, mode, at, length); }
/* where the file system cannot, the C library writes zeros instead; here that is an error which the caller sees */
int posix_fallocate(int fd, off_t offset, off_t length) {
    return allocate_and_note(fd, 0, offset, length) == 0 ? 0 : errno;
}
int posix_fallocate64(int fd, off64_t offset, off64_t length) {
    return allocate_and_note(fd, 0, offset, length) == 0 ? 0 : errno;
}

/* What the kernel copied from file to file: read back from where it came. */
static void note_copy(int to, int64_t at, int from, int64_t start, int64_t length) {
    static char bytes[1 << 20]; /* under the lock */
    while (length > 0) {
        ssize_t size = syscall(SYS_pread64, from, bytes, length < 1 << 20 ? length : 1 << 20, start);
        if (size <= 0) {
            unmodelled(to, "a copy whose source cannot be read");
            return;
        }
        struct iovec part = {bytes, (size_t)size};
        note_write(to, at, size, &part, 1);
        at += size, start += size, length -= size;
    }
}

static ssize_t send_file(int to, int from, off64_t *offset, size_t size) {
    if (!at_work() || !is_tracked(to)) return syscall(SYS_sendfile, to, from, offset, size);
    enter();
    int64_t at = position(to), start = offset ? *offset : syscall(SYS_lseek, from, 0, SEEK_CUR);
    ssize_t copied = syscall(SYS_sendfile, to, from, offset, size);
    note_copy(to, at, from, start, copied);
    leave();
    return copied;
}
ssize_t sendfile(int to, int from, off_t *offset, size_t size) { return send_file(to, from, offset, size); }
ssize_t sendfile64(int to, int from, off64_t *offset, size_t size) { return send_file(to, from, offset, size); }

ssize_t copy_file_range(int from, off64_t *start, int to, off64_t *target, size_t size, unsigned flags) {
    if (!at_work() || !is_tracked(to))
        return syscall(SYS_copy_file_range, from, start, to, target, size, flags);
    enter();
    int64_t first = start ? *start : syscall(SYS_lseek, from, 0, SEEK_CUR), at = target ? *target : position(to);
    ssize_t copied = syscall(SYS_copy_file_range, from, start, to, target, size, flags);
    note_copy(to, at, from, first, copied);
    leave();
    return copied;
}
ssize_t splice(int from, off64_t *start, int to, off64_t *target, size_t size, unsigned flags) {
    if (at_work() && is_tracked(to)) unmodelled(to, "splice");
    return syscall(SYS_splice, from, start, to, target, size, flags);
}

/* ---------------------------------------------------------------- flushes */

static int sync_and_note(int fd, long call) {
    if (!at_work() || !is_tracked(fd)) return (int)syscall(call, fd);
    enter();
    uint64_t number = ++serial;
    note(OP_SYNC_BEGINS, fd, (int64_t)number, 0, NULL, NULL, NULL, 0);
    leave();
    int result = (int)syscall(call, fd);
    if (result == 0) {
        enter();
        note(OP_SYNCED, fd, (int64_t)number, 0, NULL, NULL, NULL, 0);
        leave();
    }
    return result;
}
int fsync(int fd) { return sync_and_note(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_and_note(fd, SYS_fdatasync); }

/* ---------------------------------------------------------------- names */

static int two_names(int operation, long call, int folder, const char *path, int other_folder, const char *other,
                     unsigned flags) {
    if (!at_work()) return (int)syscall(call, folder, path, other_folder, other, flags);
    char full[PATH_MAX], other_full[PATH_MAX];
    absolute(folder, path, full);
    absolute(other_folder, other, other_full);
    enter();
    int result = (int)syscall(call, folder, path, other_folder, other, flags);
    if (result == 0 && below_root(other_full)) {
        if (operation == OP_RENAME && (flags & ~RENAME_NOREPLACE)) unmodelled(-1, "renameat2 with flags");
        /* a file without a name is linked by its descriptor: /proc/self/fd/7 */
        int fd = -1;
        if (operation == OP_LINK && sscanf(full, "/proc/self/fd/%d", &fd) == 1)
            note(operation, fd, 0, 0, NULL, other_full, NULL, 0);
        else
            note(operation, -1, 0, 0, full, other_full, NULL, 0);
    }
    leave();
    return result;
}
int rename(const char *from, const char *to) {
    return two_names(OP_RENAME, SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}
int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    return two_names(OP_RENAME, SYS_renameat2, from_folder, from, to_folder, to, 0);
}
int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    return two_names(OP_RENAME, SYS_renameat2, from_folder, from, to_folder, to, flags);
}
int link(const char *from, const char *to) {
    return two_names(OP_LINK, SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}
int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    return two_names(OP_LINK, SYS_linkat, from_folder, from, to_folder, to, (unsigned)flags);
}
int symlink(const char *from, const char *to) {
    int result = REAL(symlink)(from, to);
    if (at_work() && below_root(to)) unmodelled(-1, "symlink");
    return result;
}

static int one_name(int operation, long call, int folder, const char *path, int argument) {
    if (!at_work()) return (int)syscall(call, folder, path, argument);
    char full[PATH_MAX];
    absolute(folder, path, full);
    if (!below_root(full)) return (int)syscall(call, folder, path, argument);
    enter();
    int result = (int)syscall(call, folder, path, argument);
    if (result == 0) note(operation, -1, 0, 0, full, NULL, NULL, 0);
    leave();
    return result;
}
int unlink(const char *path) { return one_name(OP_UNLINK, SYS_unlinkat, AT_FDCWD, path, 0); }
int unlinkat(int folder, const char *path, int flags) {
    return one_name(flags & AT_REMOVEDIR ? OP_RMDIR : OP_UNLINK, SYS_unlinkat, folder, path, flags);
}
int rmdir(const char *path) { return one_name(OP_RMDIR, SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR); }
int mkdir(const char *path, mode_t mode) { return one_name(OP_MKDIR, SYS_mkdirat, AT_FDCWD, path, (int)mode); }
int mkdirat(int folder, const char *path, mode_t mode) {
    return one_name(OP_MKDIR, SYS_mkdirat, folder, path, (int)mode);
}
int truncate(const char *path, off_t size) {
    if (at_work() && below_root(path)) unmodelled(-1, "truncate by name");
    return REAL(truncate)(path, size);
}
int truncate64(const char *path, off64_t size) {
    if (at_work() && below_root(path)) unmodelled(-1, "truncate by name");
    return REAL(truncate64)(path, size);
}

int utimensat(int folder, const char *path, const struct timespec times[2], int flags) {
    if (!at_work()) return (int)syscall(SYS_utimensat, folder, path, times, flags);
    char full[PATH_MAX];
    absolute(folder, path, full);
    if (!below_root(full)) return (int)syscall(SYS_utimensat, folder, path, times, flags);
    enter();
    int result = (int)syscall(SYS_utimensat, folder, path, times, flags);
    if (result == 0) {
        int64_t modified = times == NULL ? 0 : (int64_t)times[1].tv_sec * 1000000000 + times[1].tv_nsec;
        note(OP_TIMES, -1, modified, 0, full, NULL, NULL, 0); /* 0: now */
    }
    leave();
    return result;
}

/* ---------------------------------------------------------------- sockets, mappings */

ssize_t send(int fd, const void *bytes, size_t size, int flags) {
    struct iovec part = {(void *)bytes, size};
    if (at_work()) note_send(fd, &part, 1);
    return syscall(SYS_sendto, fd, bytes, size, flags, NULL, 0);
}
ssize_t sendto(int fd, const void *bytes, size_t size, int flags, const struct sockaddr *to, socklen_t to_bytes) {
    struct iovec part = {(void *)bytes, size};
    if (at_work()) note_send(fd, &part, 1);
    return syscall(SYS_sendto, fd, bytes, size, flags, to, to_bytes);
}
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    if (at_work()) note_send(fd, message->msg_iov, (int)message->msg_iovlen);
    return syscall(SYS_sendmsg, fd, message, flags);
}

static void *map_and_note(void *at, size_t size, int protection, int flags, int fd, off64_t offset) {
    void *result = (void *)syscall(SYS_mmap, at, size, protection, flags, fd, offset);
    if (at_work() && is_tracked(fd) && (flags & MAP_SHARED) && (protection & PROT_WRITE)) {
        char name[64], path[PATH_MAX];
        snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(name, path, sizeof path);
        if (length < 4 || memcmp(path + length - 4, "-shm", 4)) unmodelled(fd, "a file mapped to be written");
    }
    return result;
}
void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
    return map_and_note(at, size, protection, flags, fd, offset);
}
void *mmap64(void *at, size_t size, int protection, int flags, int fd, off64_t offset) {
    return map_and_note(at, size, protection, flags, fd, offset);
}
