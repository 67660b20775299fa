// SPDX-License-Identifier: GPL-2.0
/*
 * Makes User-Mode Linux with more than one CPU fast enough to test with. The linker puts this between
 * the kernel and the C library (--wrap).
 *
 * Time skips what the kernel would only wait for: when all of its CPUs are idle, its clock goes on to
 * the first of their timers. While any of them works, time is that of the host. The kernel has a mode
 * for that, time travel, but not for more than one CPU.
 *
 * To disable interrupts is no system call: a signal of another CPU that comes meanwhile is kept until
 * they are enabled again, as the kernel itself does with all other signals.
 *
 * Who waits for a spinlock lets others run, or it might use up the time that the holder needs.
 *
 * It is on where UML_FAST is set, to the number of a file descriptor: while a line written to it
 * is unanswered, the guest waits for the host, and time does not skip.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#define CPUS 8
#define SECOND 1000000000LL
/* What CPUs send to each other; its value is what for. */
#define IPI SIGRTMIN
#define SPINS 200

/* A CPU: a thread of the host, which makes its timer and then a signalfd to wait at. */
struct cpu {
	pthread_t thread;
	timer_t timer;
	int wake;
	int idle;
	long long expires;	/* by the guest's clock; 0: the timer is not armed */
	long long interval;
};

int __real_clock_gettime(clockid_t id, struct timespec *now);
int __real_timer_create(clockid_t id, struct sigevent *event, timer_t *timer);
int __real_timer_settime(timer_t timer, int flags, const struct itimerspec *new,
			 struct itimerspec *old);
int __real_signalfd(int fd, const sigset_t *mask, int flags);
int __real_poll(struct pollfd *fds, nfds_t count, int timeout);
int __real_pthread_sigqueue(pthread_t thread, int signal, const union sigval value);
int __real_sigaction(int signal, const struct sigaction *new, struct sigaction *old);
void __real_os_local_ipi_enable(void);
void __real_os_local_ipi_disable(void);
void __real_queued_spin_lock_slowpath(int *lock, unsigned int value);
ssize_t __real_read(int fd, void *data, size_t count);
ssize_t __real_write(int fd, const void *data, size_t count);

/* The kernel's: whether interrupts are enabled on this CPU. */
extern __thread int signals_enabled;
/* Its handler for IPI, and what for that came while they were not, a bit each. */
static void (*handle_ipi)(int signal, siginfo_t *info, void *context);
static __thread unsigned int kept;
static __thread int unblocked;

static struct cpu cpus[CPUS];
static int known;
/* What the guest's clock is ahead of the host's. */
static long long skipped;
/* The file descriptor that leads to the host, and what was asked there without an answer so far. */
static int host = -1;
static long unanswered;
static int on;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void __attribute__((constructor)) start(void)
{
	const char *value = getenv("UML_FAST");

	if (value) {
		host = atoi(value);
		on = 1;
	}
}

/* Handlers of signals come here as well, so none may come while the mutex is held. */
static void lock(sigset_t *old)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, old);
	pthread_mutex_lock(&mutex);
}

static void unlock(const sigset_t *old)
{
	pthread_mutex_unlock(&mutex);
	pthread_sigmask(SIG_SETMASK, old, NULL);
}

static long long nanoseconds(const struct timespec *time)
{
	return time->tv_sec * SECOND + time->tv_nsec;
}

static struct timespec timespec(long long ns)
{
	return (struct timespec){ .tv_sec = ns / SECOND, .tv_nsec = ns % SECOND };
}

static long long clock_now(void)
{
	struct timespec now;

	__real_clock_gettime(CLOCK_MONOTONIC, &now);
	return nanoseconds(&now) + __atomic_load_n(&skipped, __ATOMIC_ACQUIRE);
}

int __wrap_clock_gettime(clockid_t id, struct timespec *now)
{
	if (!on || id != CLOCK_MONOTONIC)
		return __real_clock_gettime(id, now);
	*now = timespec(clock_now());
	return 0;
}

int __wrap_timer_create(clockid_t id, struct sigevent *event, timer_t *timer)
{
	int result = __real_timer_create(id, event, timer);
	sigset_t old;

	if (on && !result) {
		lock(&old);
		if (known == CPUS)
			abort();
		cpus[known++] = (struct cpu){
			.thread = pthread_self(), .timer = *timer, .wake = -1,
		};
		unlock(&old);
	}
	return result;
}

int __wrap_timer_settime(timer_t timer, int flags, const struct itimerspec *new,
			 struct itimerspec *old_value)
{
	sigset_t old;
	int result;

	if (!on)
		return __real_timer_settime(timer, flags, new, old_value);
	lock(&old);
	for (struct cpu *cpu = cpus; cpu < cpus + known; cpu++) {
		if (cpu->timer != timer)
			continue;
		cpu->expires = nanoseconds(&new->it_value);
		if (cpu->expires)
			cpu->expires += clock_now();
		cpu->interval = nanoseconds(&new->it_interval);
	}
	result = __real_timer_settime(timer, flags, new, old_value);
	unlock(&old);
	return result;
}

static struct cpu *this_cpu(void)
{
	for (struct cpu *cpu = cpus; cpu < cpus + known; cpu++) {
		if (pthread_equal(cpu->thread, pthread_self()))
			return cpu;
	}
	return NULL;
}

int __wrap_signalfd(int fd, const sigset_t *mask, int flags)
{
	int result = __real_signalfd(fd, mask, flags);
	struct cpu *cpu = this_cpu();

	if (on && cpu)
		cpu->wake = result;
	return result;
}

/* Has what was kept come once more, now that interrupts are enabled. */
static void repeat_kept(void)
{
	while (kept) {
		int value = __builtin_ctz(kept);

		__atomic_and_fetch(&kept, ~(1U << value), __ATOMIC_RELAXED);
		__real_pthread_sigqueue(pthread_self(), IPI, (union sigval){ .sival_int = value });
	}
}

static void keep_or_handle(int signal, siginfo_t *info, void *context)
{
	if (!signals_enabled) {
		__atomic_or_fetch(&kept, 1U << info->si_value.sival_int, __ATOMIC_RELAXED);
		return;
	}
	handle_ipi(signal, info, context);
	repeat_kept();
}

int __wrap_sigaction(int signal, const struct sigaction *new, struct sigaction *old)
{
	struct sigaction action;

	if (!on || signal != IPI || !new)
		return __real_sigaction(signal, new, old);
	action = *new;
	handle_ipi = action.sa_sigaction;
	action.sa_sigaction = keep_or_handle;
	/* The handler may enable interrupts. */
	action.sa_flags |= SA_NODEFER;
	sigdelset(&action.sa_mask, IPI);
	return __real_sigaction(signal, &action, old);
}

void __wrap_os_local_ipi_disable(void)
{
	if (!on)
		__real_os_local_ipi_disable();
}

void __wrap_os_local_ipi_enable(void)
{
	/* A new CPU starts with the signal blocked. */
	if (!on || !unblocked) {
		__real_os_local_ipi_enable();
		unblocked = 1;
	}
	repeat_kept();
}

/* The lock is free at 0, and its holder takes it back to that. */
void __wrap_queued_spin_lock_slowpath(int *lock, unsigned int value)
{
	int spins = 0, expected = 0;

	if (!on) {
		__real_queued_spin_lock_slowpath(lock, value);
		return;
	}
	while (__atomic_load_n(lock, __ATOMIC_RELAXED) ||
	       !__atomic_compare_exchange_n(lock, &expected, 1, 0, __ATOMIC_ACQUIRE,
					    __ATOMIC_RELAXED)) {
		expected = 0;
		__builtin_ia32_pause();
		if (++spins % SPINS == 0)
			sched_yield();
	}
}

/* When a timer goes off next, or went off without its CPU having seen it; 0 if it is not armed. */
static long long next_alarm(const struct cpu *cpu, long long now)
{
	if (cpu->expires && cpu->expires <= now && cpu->interval)
		return cpu->expires + ((now - cpu->expires) / cpu->interval + 1) * cpu->interval;
	return cpu->expires;
}

/* All CPUs are idle: goes on to the first timer. */
static void skip(void)
{
	long long now = clock_now(), first = 0;

	for (struct cpu *cpu = cpus; cpu < cpus + known; cpu++) {
		long long alarm = next_alarm(cpu, now);

		if (alarm && (!first || alarm < first))
			first = alarm;
	}
	if (first <= now)
		return;
	__atomic_store_n(&skipped, skipped + first - now, __ATOMIC_RELEASE);
	for (struct cpu *cpu = cpus; cpu < cpus + known; cpu++) {
		long long alarm = next_alarm(cpu, now);
		struct itimerspec left = { .it_interval = timespec(cpu->interval) };

		if (!alarm)
			continue;
		cpu->expires = alarm;
		left.it_value = timespec(alarm > first ? alarm - first : 1);
		__real_timer_settime(cpu->timer, 0, &left, NULL);
	}
}

/* A timer that went off: its alarm was seen by its CPU, or is to be seen by poll(). */
static void forget_alarm(struct cpu *cpu)
{
	struct itimerspec left;

	if (cpu->expires && !cpu->interval && cpu->expires <= clock_now() &&
	    !timer_gettime(cpu->timer, &left) && !nanoseconds(&left.it_value))
		cpu->expires = 0;
}

int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout)
{
	struct cpu *cpu = on && count == 1 && timeout < 0 ? this_cpu() : NULL;
	sigset_t old, awake;
	int result, all = 1;

	if (!cpu || fds->fd != cpu->wake)
		return __real_poll(fds, count, timeout);
	lock(&old);
	/*
	 * What is to wake this CPU may be on its way. In this order: of an alarm that comes in between,
	 * one of the two knows. Who sends a signal later sees that this CPU is idle.
	 */
	forget_alarm(cpu);
	result = kept ? 1 : __real_poll(fds, count, 0);
	if (result) {
		unlock(&old);
		return result;
	}
	cpu->idle = 1;
	for (struct cpu *one = cpus; one < cpus + known; one++)
		all &= one->idle;
	if (all && __atomic_load_n(&unanswered, __ATOMIC_RELAXED) <= 0)
		skip();
	/* Nothing may be handled, or kept, between this and the wait. */
	awake = old;
	sigaddset(&old, IPI);
	unlock(&old);

	result = __real_poll(fds, count, timeout);

	lock(&old);
	cpu->idle = 0;
	unlock(&awake);
	return result;
}

int __wrap_pthread_sigqueue(pthread_t thread, int signal, const union sigval value)
{
	sigset_t old;
	int result;

	if (!on)
		return __real_pthread_sigqueue(thread, signal, value);
	lock(&old);
	for (struct cpu *cpu = cpus; cpu < cpus + known; cpu++) {
		if (pthread_equal(cpu->thread, thread))
			cpu->idle = 0;
	}
	result = __real_pthread_sigqueue(thread, signal, value);
	unlock(&old);
	return result;
}

static long lines(const char *data, ssize_t length)
{
	long found = 0;

	for (ssize_t at = 0; at < length; at++)
		found += data[at] == '\n';
	return found;
}

ssize_t __wrap_write(int fd, const void *data, size_t count)
{
	ssize_t result;

	if (!on || fd != host)
		return __real_write(fd, data, count);
	/* Before the answer can be there. */
	__atomic_add_fetch(&unanswered, lines(data, count), __ATOMIC_RELAXED);
	result = __real_write(fd, data, count);
	if (result < (ssize_t)count) {
		ssize_t done = result > 0 ? result : 0;

		__atomic_sub_fetch(&unanswered, lines((const char *)data + done, count - done),
				   __ATOMIC_RELAXED);
	}
	return result;
}

ssize_t __wrap_read(int fd, void *data, size_t count)
{
	ssize_t result = __real_read(fd, data, count);

	if (on && fd == host && result > 0)
		__atomic_sub_fetch(&unanswered, lines(data, result), __ATOMIC_RELAXED);
	return result;
}
