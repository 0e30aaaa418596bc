/*
 * Lets the real XenStore daemons of Debian's xen-utils-4.17 run without Xen: a library to preload into them, for the
 * comparison in this directory and for nothing else. It is no part of xl-mtwatch's own program, and nothing in it is
 * from Xen but the signatures of the functions that it stands in for (xenctrl.h, xenevtchn.h, xengnttab.h,
 * xenforeignmemory.h of libxen-dev). All of it happens in one directory, NO_HYPERVISOR_DIR:
 *
 *   event channels   the FIFO `evtchn`: a record of two 32-bit words {domid, port} makes the port pending that is bound
 *                    to it, {0xffffffff, virq} raises a VIRQ. A guest N is notified by a byte into the FIFO `guest-N`.
 *   memory           the page of domain N, however it is mapped, is the file `ring-N`.
 *   domains          N exists if `ring-N` does; it is shut down or dying if `shutdown-N` or `dying-N` exists.
 *   files            /proc/xen/xsd_port is served from memory, xsd_kva is `ring-0`; the daemons' own directories in
 *                    /run and /var are this one.
 *   limits           to fail to raise one is no error.
 *   time             the monotonic clock runs a thousand times too fast, so that the limit on the rate of a guest's
 *                    writes, which our server does not have, is never reached.
 *
 * The daemon ends with the process that started it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <xenctrl.h>
#include <xenevtchn.h>
#include <xenforeignmemory.h>
#include <xengnttab.h>

#define PAGE 4096
#define FIRST_RESERVED 0x7ff0

static const char *directory(void)
{
	const char *d = getenv("NO_HYPERVISOR_DIR");
	return d && *d ? d : ".";
}

__attribute__((constructor)) static void end_with_parent(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* Files. */

static void *next(const char *name)
{
	void *p = dlsym(RTLD_NEXT, name);
	if (!p)
		abort();
	return p;
}
#define NEXT(ret, name, ...)                 \
	static ret (*real)(__VA_ARGS__);     \
	if (!real)                           \
		real = (ret(*)(__VA_ARGS__))next(name)

static const char *const redirected[] = {
	"/var/run/xenstored", "/run/xenstored", "/var/lib/xenstored", "/var/run/xen", "/run/xen", "/var/log/xen", NULL,
};

static const char *redirect(const char *path, char *buf)
{
	for (int i = 0; path && redirected[i]; i++) {
		size_t n = strlen(redirected[i]);
		if (!strncmp(path, redirected[i], n) && (path[n] == '/' || path[n] == 0)) {
			snprintf(buf, PATH_MAX, "%s%s", directory(), path + n);
			return buf;
		}
	}
	return path;
}

static int open_in_directory(const char *what, int domid, int flags)
{
	char p[PATH_MAX];
	NEXT(int, "open", const char *, int, ...);
	if (domid < 0)
		snprintf(p, sizeof p, "%s/%s", directory(), what);
	else
		snprintf(p, sizeof p, "%s/%s-%d", directory(), what, domid);
	return real(p, flags | O_CLOEXEC, 0600);
}

static int special_open(const char *path)
{
	if (!strcmp(path, "/proc/xen/xsd_kva") || !strcmp(path, "/dev/xen/xsd_kva")) {
		int fd = open_in_directory("ring", 0, O_RDWR | O_CREAT);
		if (fd >= 0 && ftruncate(fd, PAGE))
			perror("ring-0");
		return fd;
	}
	if (!strcmp(path, "/proc/xen/xsd_port") || !strcmp(path, "/dev/xen/xsd_port")) {
		int fd = memfd_create("xsd_port", MFD_CLOEXEC);
		if (fd >= 0 && (write(fd, "1", 1) != 1 || lseek(fd, 0, SEEK_SET) != 0)) {
			close(fd);
			return -1;
		}
		return fd;
	}
	return -2;
}

#define OPEN_BODY(name)                                                   \
	char buf[PATH_MAX];                                               \
	mode_t mode = 0;                                                  \
	static int (*real)(const char *, int, ...);                       \
	if (!real)                                                        \
		real = (int (*)(const char *, int, ...))next(name);       \
	if (flags & (O_CREAT | O_TMPFILE)) {                              \
		va_list ap;                                               \
		va_start(ap, flags);                                      \
		mode = va_arg(ap, mode_t);                                \
		va_end(ap);                                               \
	}                                                                 \
	int fd = special_open(path);                                      \
	return fd != -2 ? fd : real(redirect(path, buf), flags, mode)

int open(const char *path, int flags, ...) { OPEN_BODY("open"); }
int open64(const char *path, int flags, ...) { OPEN_BODY("open64"); }

#define REDIRECTED(name, params, ...)               \
	int name params                             \
	{                                           \
		char buf[PATH_MAX];                 \
		NEXT(int, #name, const char *, ...); \
		return real(redirect(path, buf), ##__VA_ARGS__); \
	}
REDIRECTED(mkdir, (const char *path, mode_t mode), mode)
REDIRECTED(unlink, (const char *path))
REDIRECTED(chmod, (const char *path, mode_t mode), mode)
REDIRECTED(stat, (const char *path, struct stat *st), st)
REDIRECTED(stat64, (const char *path, struct stat64 *st), st)
REDIRECTED(access, (const char *path, int mode), mode)

int rename(const char *a, const char *b)
{
	char ba[PATH_MAX], bb[PATH_MAX];
	NEXT(int, "rename", const char *, const char *);
	return real(redirect(a, ba), redirect(b, bb));
}

int bind(int fd, const struct sockaddr *sa, socklen_t len)
{
	NEXT(int, "bind", int, const struct sockaddr *, socklen_t);
	if (sa && sa->sa_family == AF_UNIX) {
		const struct sockaddr_un *un = (const void *)sa;
		struct sockaddr_un nu = { .sun_family = AF_UNIX };
		char path[PATH_MAX], buf[PATH_MAX];
		size_t n = len - offsetof(struct sockaddr_un, sun_path);
		if (n > sizeof un->sun_path)
			n = sizeof un->sun_path;
		memcpy(path, un->sun_path, n);
		path[n] = 0;
		const char *r = redirect(path, buf);
		if (r != path) {
			if (strlen(r) >= sizeof nu.sun_path) {
				errno = ENAMETOOLONG;
				return -1;
			}
			strcpy(nu.sun_path, r);
			return real(fd, (struct sockaddr *)&nu, sizeof nu);
		}
	}
	return real(fd, sa, len);
}

/* Both daemons ask for a queue of one, which a tester that reconnects a lot overruns. */
int listen(int fd, int backlog)
{
	NEXT(int, "listen", int, int);
	return real(fd, backlog < 512 ? 512 : backlog);
}

/* Limits and time. */

int setrlimit(__rlimit_resource_t what, const struct rlimit *rl)
{
	NEXT(int, "setrlimit", __rlimit_resource_t, const struct rlimit *);
	real(what, rl);
	return 0;
}

int setrlimit64(__rlimit_resource_t what, const struct rlimit64 *rl)
{
	return setrlimit(what, (const struct rlimit *)rl);
}

int clock_gettime(clockid_t clock, struct timespec *ts)
{
	NEXT(int, "clock_gettime", clockid_t, struct timespec *);
	int rc = real(clock, ts);
	if (rc == 0 && clock == CLOCK_MONOTONIC) {
		static time_t start;
		if (!start)
			start = ts->tv_sec;
		uint64_t us = (uint64_t)(ts->tv_sec - start) * 1000000 + ts->tv_nsec / 1000;
		ts->tv_sec = start + us / 1000;
		ts->tv_nsec = us % 1000 * 1000000;
	}
	return rc;
}

/* Whoever waits for a time on that clock waits as fast. */
int poll(struct pollfd *fds, nfds_t n, int timeout)
{
	NEXT(int, "poll", struct pollfd *, nfds_t, int);
	return real(fds, n, timeout > 0 ? timeout / 1000 + 1 : timeout);
}

/* Event channels. */

#define PORTS 1024
#define OF_VIRQ 0xffffffffu
static struct {
	int used;
	uint32_t domid, remote;
} ports[PORTS];
static int evtchn_fd = -1;
static char handle;

static int allocate(uint32_t domid, uint32_t remote)
{
	for (int i = 1; i < PORTS; i++)
		if (!ports[i].used) {
			ports[i].used = 1;
			ports[i].domid = domid;
			ports[i].remote = remote;
			return i;
		}
	errno = ENOSPC;
	return -1;
}

static int is_bound(evtchn_port_t port)
{
	if (port < PORTS && ports[port].used)
		return 1;
	errno = EINVAL;
	return 0;
}

xenevtchn_handle *xenevtchn_open(xentoollog_logger *l, unsigned flags)
{
	(void)l, (void)flags;
	evtchn_fd = open_in_directory("evtchn", -1, O_RDWR | O_NONBLOCK);
	return evtchn_fd < 0 ? NULL : (xenevtchn_handle *)&handle;
}

xenevtchn_handle *xenevtchn_fdopen(xentoollog_logger *l, int fd, unsigned flags)
{
	(void)l, (void)flags;
	evtchn_fd = fd;
	return (xenevtchn_handle *)&handle;
}

int xenevtchn_close(xenevtchn_handle *x) { return (void)x, close(evtchn_fd); }
int xenevtchn_fd(xenevtchn_handle *x) { return (void)x, evtchn_fd; }
int xenevtchn_restrict(xenevtchn_handle *x, domid_t d) { return (void)x, (void)d, 0; }
int xenevtchn_unmask(xenevtchn_handle *x, evtchn_port_t p) { return (void)x, (void)p, 0; }

int xenevtchn_notify(xenevtchn_handle *x, evtchn_port_t port)
{
	(void)x;
	if (!is_bound(port))
		return -1;
	if (ports[port].domid == OF_VIRQ || ports[port].domid == 0)
		return 0;
	int fd = open_in_directory("guest", ports[port].domid, O_WRONLY | O_NONBLOCK);
	if (fd >= 0) {
		if (write(fd, "!", 1) != 1)
			perror("guest");
		close(fd);
	}
	return 0;
}

xenevtchn_port_or_error_t xenevtchn_bind_unbound_port(xenevtchn_handle *x, uint32_t d)
{
	return (void)x, allocate(d, 0);
}

xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle *x, uint32_t domid, evtchn_port_t remote)
{
	return (void)x, allocate(domid, remote);
}

xenevtchn_port_or_error_t xenevtchn_bind_virq(xenevtchn_handle *x, unsigned virq)
{
	return (void)x, allocate(OF_VIRQ, virq);
}

int xenevtchn_unbind(xenevtchn_handle *x, evtchn_port_t port)
{
	(void)x;
	if (!is_bound(port))
		return -1;
	ports[port].used = 0;
	return 0;
}

xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle *x)
{
	uint32_t record[2];
	(void)x;
	if (read(evtchn_fd, record, sizeof record) == sizeof record)
		for (int i = 1; i < PORTS; i++)
			if (ports[i].used && ports[i].domid == record[0] && ports[i].remote == record[1])
				return i;
	return 0; /* a port that is never bound */
}

/* Memory. */

static void *map_page(unsigned domid)
{
	int fd = open_in_directory("ring", domid, O_RDWR);
	if (fd < 0) {
		errno = EINVAL; /* as for a grant that is not there */
		return NULL;
	}
	void *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return p == MAP_FAILED ? NULL : p;
}

xengnttab_handle *xengnttab_open(xentoollog_logger *l, unsigned f)
{
	return (void)l, (void)f, (xengnttab_handle *)&handle;
}
int xengnttab_close(xengnttab_handle *h) { return (void)h, 0; }
int xengnttab_set_max_grants(xengnttab_handle *h, uint32_t n) { return (void)h, (void)n, 0; }
void *xengnttab_map_grant_ref(xengnttab_handle *h, uint32_t domid, uint32_t ref, int prot)
{
	return (void)h, (void)ref, (void)prot, map_page(domid);
}
int xengnttab_unmap(xengnttab_handle *h, void *a, uint32_t n) { return (void)h, munmap(a, (size_t)n * PAGE); }

xenforeignmemory_handle *xenforeignmemory_open(xentoollog_logger *l, unsigned f)
{
	return (void)l, (void)f, (xenforeignmemory_handle *)&handle;
}
int xenforeignmemory_close(xenforeignmemory_handle *h) { return (void)h, 0; }
void *xenforeignmemory_map(xenforeignmemory_handle *h, uint32_t domid, int prot, size_t pages, const xen_pfn_t arr[], int err[])
{
	(void)h, (void)prot, (void)arr;
	for (size_t i = 0; err && i < pages; i++)
		err[i] = 0;
	return map_page(domid);
}
int xenforeignmemory_unmap(xenforeignmemory_handle *h, void *a, size_t n) { return (void)h, munmap(a, n * PAGE); }

void *xc_map_foreign_range(xc_interface *x, uint32_t domid, int size, int prot, unsigned long mfn)
{
	return (void)x, (void)size, (void)prot, (void)mfn, map_page(domid);
}

/* Domains. */

xc_interface *xc_interface_open(xentoollog_logger *a, xentoollog_logger *b, unsigned f)
{
	return (void)a, (void)b, (void)f, (xc_interface *)&handle;
}
int xc_interface_close(xc_interface *x) { return (void)x, 0; }
const xc_error *xc_get_last_error(xc_interface *x)
{
	static const xc_error e = { .code = XC_INTERNAL_ERROR, .message = "there is no hypervisor" };
	return (void)x, &e;
}

static int is_there(const char *what, unsigned domid)
{
	int fd = open_in_directory(what, domid, O_PATH);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

/* Calls `found` for the domains from `first` on, at most `max`; only for `first` itself if that is one. */
#define EACH_DOMAIN(d, n, first, max)                                                             \
	for (uint32_t d = (first); d < FIRST_RESERVED && n < (int)(max) && (d == (first) || (max) > 1); d++) \
		if (d == 0 || is_there("ring", d))

int xc_domain_getinfo(xc_interface *x, uint32_t first, unsigned max, xc_dominfo_t *out)
{
	int n = 0;
	(void)x;
	EACH_DOMAIN (d, n, first, max) {
		memset(&out[n], 0, sizeof out[n]);
		out[n].domid = d;
		out[n].shutdown = is_there("shutdown", d);
		out[n].dying = is_there("dying", d);
		n++;
	}
	if (!n)
		errno = ESRCH;
	return n ? n : -1;
}

int xc_domain_getinfolist(xc_interface *x, uint32_t first, unsigned max, xc_domaininfo_t *out)
{
	int n = 0;
	(void)x;
	EACH_DOMAIN (d, n, first, max) {
		memset(&out[n], 0, sizeof out[n]);
		out[n].domain = d;
		if (is_there("shutdown", d))
			out[n].flags |= XEN_DOMINF_shutdown;
		if (is_there("dying", d))
			out[n].flags |= XEN_DOMINF_dying;
		n++;
	}
	return n;
}
