/*
 * What the benchmarks need below Go: workers that cost nothing and say when
 * they were executed, storms of orphans, and a stopwatch for a PID 1 that is
 * still deaf. Static, so that the time from exec to main is the kernel's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void sleep_ms(long ms)
{
	struct timespec t = {ms / 1000, ms % 1000 * 1000000};
	nanosleep(&t, NULL);
}

static void sleep_until(long at)
{
	struct timespec t = {at / 1000000000L, at % 1000000000L};
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static int wait_for_ever(void)
{
	for (;;)
		pause();
	return 0;
}

/* stamp: a worker. Its first deed is to look at the clock. */
static int stamp(void)
{
	long at = now();
	char line[96];
	const char *id = getenv("POOLINIT_WORKER_ID");
	int n = snprintf(line, sizeof line, "%s %d %ld\n", id ? id : "0", getpid(), at);
	if (write(1, line, n) != n)
		return 1;
	return wait_for_ever();
}

/* worker starts one, in a function of its own because of what vfork does to locals. */
static pid_t worker(int number, char *self)
{
	char id[16], *argv[] = {self, "stamp", NULL};
	snprintf(id, sizeof id, "%d", number);
	setenv("POOLINIT_WORKER_ID", id, 1);
	pid_t pid = vfork();
	if (!pid) {
		execv(self, argv);
		_exit(127);
	}
	return pid;
}

/* pool N: the least that a supervisor can do, as a floor: wait, vfork, exec. */
static int pool(int n, char *self)
{
	pid_t *slots = calloc(n, sizeof *slots);
	for (int i = 0; i < n; i++)
		slots[i] = worker(i, self);
	for (;;) {
		pid_t pid = wait(NULL);
		if (pid < 0)
			return 1;
		for (int i = 0; i < n; i++)
			if (slots[i] == pid)
				slots[i] = worker(i, self);
	}
}

/* processes on the whole machine, zombies too. */
static int processes(void)
{
	struct sysinfo s;
	return sysinfo(&s) ? 0 : s.procs;
}

/*
 * orphans N: N processes are forked by one that exits, so that they become
 * PID 1's; then all end at once. The clock runs until no zombie is left, which
 * is when their process group has nobody in it, dead or alive. Prints the
 * nanoseconds from the beginning, and from the end of the orphans' lives.
 */
static int orphans(int n)
{
	int gate[2], made[2];
	if (pipe(gate) || pipe(made))
		return 1;
	int before = processes();
	long began = now();
	pid_t group = fork();
	if (!group) {
		char c;
		close(gate[1]);
		close(made[0]);
		setpgid(0, 0);
		for (int i = 0; i < n; i++) {
			pid_t pid = fork();
			if (pid < 0)
				_exit(2);
			if (!pid) {
				close(made[1]);
				_exit(read(gate[0], &c, 1) != 0);
			}
		}
		_exit(0);
	}
	int status;
	if (waitpid(group, &status, 0) != group || status)
		return 2;
	long gone = now();
	close(gate[1]);
	while (processes() > before + 100) /* a cheap look first: kill visits every member */
		sleep_ms(1);
	while (kill(-group, 0) == 0 || errno != ESRCH)
		sleep_ms(1);
	long end = now();
	printf("%ld %ld\n", end - began, end - gone);
	return 0;
}

/* up: the child of an init in the deaf race: a byte when it runs. */
static int up(void)
{
	if (write(1, "u", 1) != 1)
		return 1;
	return wait_for_ever();
}

/*
 * trial starts a command as PID 1 of a namespace, sends SIGTERM so many
 * nanoseconds after its exec, and returns 1 if it ended of it. The exec is seen
 * by a pipe that is closed by it. It sleeps and does not spin: on few CPUs that
 * would be the command's time. The delay that came of it is stored.
 */
static int trial(char **argv, long *delay, int *status)
{
	int executed[2], alive[2];
	char c;
	if (pipe2(executed, O_CLOEXEC) || pipe2(alive, O_CLOEXEC))
		exit(1);
	pid_t pid = syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);
	if (pid < 0) {
		perror("clone");
		exit(3);
	}
	if (!pid) {
		dup2(alive[1], 1);
		execv(argv[0], argv);
		_exit(127);
	}
	close(executed[1]);
	close(alive[1]);
	if (read(executed[0], &c, 1) != 0)
		exit(1);
	long at = now();
	sleep_until(at + *delay);
	*delay = now() - at;
	kill(pid, SIGTERM);

	struct pollfd end = {alive[0], POLLIN, 0};
	int ended = 0;
	if (poll(&end, 1, 2000) == 1) {
		ended = read(alive[0], &c, 1) == 0;
		if (!ended && poll(&end, 1, 30) == 1)
			ended = read(alive[0], &c, 1) == 0;
	}
	if (!ended)
		kill(pid, SIGKILL);
	waitpid(pid, status, 0);
	close(executed[0]);
	close(alive[0]);
	return ended;
}

static int ascending(const void *a, const void *b)
{
	long x = *(const long *)a, y = *(const long *)b;
	return x < y ? -1 : x > y;
}

/*
 * deaf TRIALS COMMAND...: how long after exec a SIGTERM is not acted on, by the
 * up-and-down method: a step later after each signal that was lost, a step
 * earlier after each that was heard. The delays gather around the one at which
 * half of them are heard. Prints the median of the last three quarters, and how
 * many times the program died of the signal in a way that is not its own
 * (code 2: the Go runtime's), or of something else.
 */
static int deaf(int trials, char **argv)
{
	long delay = 1000000, step = 64000, *seen = calloc(trials, sizeof *seen);
	int wrong = 0, last = -1;
	prctl(PR_SET_TIMERSLACK, 1);
	for (int i = 0; i < trials; i++) {
		long real = delay;
		int status, heard = trial(argv, &real, &status);
		if (heard && WIFEXITED(status) && WEXITSTATUS(status) != 143 && WEXITSTATUS(status) != 0)
			heard = 0, wrong++;
		seen[i] = real;
		if (heard != last && last >= 0 && step > 8000)
			step /= 2;
		last = heard;
		delay += heard ? -step : step;
		if (delay < 0)
			delay = 0;
	}
	qsort(seen + trials / 4, trials - trials / 4, sizeof *seen, ascending);
	printf("%ld %d\n", seen[trials / 4 + (trials - trials / 4) / 2], wrong);
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	if (!strcmp(what, "stamp"))
		return stamp();
	if (!strcmp(what, "pause"))
		return wait_for_ever();
	if (!strcmp(what, "up"))
		return up();
	if (!strcmp(what, "pool") && argc == 3)
		return pool(atoi(argv[2]), argv[0]);
	if (!strcmp(what, "orphans") && argc == 3)
		return orphans(atoi(argv[2]));
	if (!strcmp(what, "deaf") && argc > 3)
		return deaf(atoi(argv[2]), argv + 3);
	fprintf(stderr, "usage: peer stamp|pause|up|pool N|orphans N|deaf N COMMAND...\n");
	return 1;
}
