/* A library to preload: lets one call fail that touches a file below a folder.
 *
 * Built and armed by tests/faults/io_errors.py.  Calls are counted from when failing_io_arm is called.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char prefix[4096];
static size_t prefix_size;
static long target, count;
static int error_code;

void failing_io_arm(const char *folder, long number, int code)
{
    prefix_size = strlen(folder);
    if (prefix_size >= sizeof prefix)
        prefix_size = 0;
    memcpy(prefix, folder, prefix_size);
    target = number;
    error_code = code;
    __atomic_store_n(&count, 0, __ATOMIC_SEQ_CST);
}

long failing_io_count(void)
{
    return __atomic_load_n(&count, __ATOMIC_SEQ_CST);
}

static int fails_path(const char *path)
{
    if (prefix_size == 0 || path == NULL || strncmp(path, prefix, prefix_size) != 0)
        return 0;
    if (__atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST) != target)
        return 0;
    errno = error_code;
    return 1;
}

static int fails_fd(int fd)
{
    char link[64], path[4096];
    ssize_t size;
    int saved = errno;

    if (prefix_size == 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    size = readlink(link, path, sizeof path - 1);
    errno = saved;
    if (size < 0)
        return 0;
    path[size] = '\0';
    return fails_path(path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define BY_FD(type, name, parameters, arguments)  \
    type name parameters                          \
    {                                             \
        if (fails_fd(fd))                         \
            return -1;                            \
        return REAL(name) arguments;              \
    }

#define BY_PATH(name, parameters, arguments)      \
    int name parameters                           \
    {                                             \
        if (fails_path(path))                     \
            return -1;                            \
        return REAL(name) arguments;              \
    }

BY_FD(ssize_t, read, (int fd, void *data, size_t size), (fd, data, size))
BY_FD(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
BY_FD(ssize_t, pread64, (int fd, void *data, size_t size, off64_t at), (fd, data, size, at))
BY_FD(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
BY_FD(int, fsync, (int fd), (fd))
BY_FD(int, fdatasync, (int fd), (fd))
BY_FD(int, syncfs, (int fd), (fd))
BY_FD(int, ftruncate64, (int fd, off64_t size), (fd, size))
BY_PATH(rename, (const char *path, const char *to), (path, to))
BY_PATH(mkdir, (const char *path, mode_t mode), (path, mode))
BY_PATH(unlink, (const char *path), (path))
BY_PATH(rmdir, (const char *path), (path))

int open64(const char *path, int flags, ...)
{
    mode_t mode = 0;

    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list list;
        va_start(list, flags);
        mode = va_arg(list, mode_t);
        va_end(list);
    }
    if (fails_path(path))
        return -1;
    return REAL(open64)(path, flags, mode);
}
