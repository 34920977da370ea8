// The two ends of the System V benchmark: a sender, and a worker that does
// nothing but answer.
//
//	sysv send KEY COUNT SIZE    sends, waits until the queue is empty
//	sysv work                   a worker: fd 3, an empty reply a message
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <stdint.h>
#include <arpa/inet.h>
#include <sys/ipc.h>
#include <sys/msg.h>

static int fail(const char *what) { perror(what); return 1; }

static int send_all(key_t key, long count, size_t size)
{
	struct { long type; char text[8192]; } m = { .type = 1 };
	int id = msgget(key, 0);
	struct msqid_ds ds;

	if (id < 0 || size > sizeof m.text)
		return fail("msgget");
	if (msgctl(id, IPC_STAT, &ds))
		return fail("msgctl");
	while (count--)
		if (msgsnd(id, &m, size, 0))
			return fail("msgsnd");
	do {
		usleep(200); // nothing tells when a queue is empty
		if (msgctl(id, IPC_STAT, &ds))
			return fail("msgctl");
	} while (ds.msg_qnum);
	return 0;
}

static int work(void)
{
	static char in[1 << 17], out[1 << 16];
	size_t have = 0;

	for (;;) {
		ssize_t n = read(3, in + have, sizeof in - have);
		size_t at = 0, replies = 0;
		if (n <= 0)
			return 0;
		for (have += n; have - at >= 4; replies++) {
			uint32_t size;
			memcpy(&size, in + at, 4);
			size = ntohl(size) + 4;
			if (have - at < size)
				break;
			at += size;
		}
		memmove(in, in + at, have -= at);
		for (size_t left = 4 * replies; left; left -= n) // all of them are zero
			if ((n = write(3, out, left < sizeof out ? left : sizeof out)) <= 0)
				return 0;
	}
}

int main(int argc, char **argv)
{
	if (argc == 5 && !strcmp(argv[1], "send"))
		return send_all(strtoul(argv[2], 0, 0), atol(argv[3]), atol(argv[4]));
	if (argc == 2 && !strcmp(argv[1], "work"))
		return work();
	return 2;
}
