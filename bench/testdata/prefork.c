/*
 * What Swoole's Process\Pool does with one message a connection: two processes
 * accept, read a frame, answer and close. Argument: the port on loopback.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int whole(int fd, char *p, size_t n)
{
	while (n > 0) {
		ssize_t k = read(fd, p, n);
		if (k <= 0)
			return 0;
		p += k;
		n -= k;
	}
	return 1;
}

static void serve(int ln)
{
	static char frame[4 + (1 << 20)];

	for (;;) {
		int fd = accept(ln, NULL, NULL);
		if (fd < 0)
			continue;
		uint32_t size;
		if (whole(fd, frame, 4)) {
			memcpy(&size, frame, 4);
			size = ntohl(size);
			if (size <= 1 << 20 && whole(fd, frame + 4, size) && write(fd, frame, 4 + size) < 0)
				_exit(1);
		}
		close(fd);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int ln = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	if (argc < 2)
		return 2;
	at.sin_port = htons(atoi(argv[1]));
	setsockopt(ln, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(ln, (struct sockaddr *)&at, sizeof at) || listen(ln, 512))
		return 1;
	for (int i = 0; i < 2; i++)
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			serve(ln);
		}
	while (wait(NULL) > 0)
		;
	return 0;
}
