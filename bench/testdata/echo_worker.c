/*
 * A worker that does nothing: it answers each frame on fd 3 with its own body.
 * One that begins with 's' takes it 100 ms.
 */
#include <arpa/inet.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

static char in[4 << 20];

int main(void)
{
	size_t have = 0;

	for (;;) {
		ssize_t n = read(3, in + have, sizeof in - have);
		if (n <= 0)
			return 0;
		have += n;
		size_t whole = 0;
		while (have - whole >= 4) {
			uint32_t size;
			memcpy(&size, in + whole, 4);
			size = ntohl(size);
			if (have - whole - 4 < size)
				break;
			if (size > 0 && in[whole + 4] == 's')
				usleep(100000);
			whole += 4 + size;
		}
		for (size_t sent = 0; sent < whole;) {
			ssize_t w = write(3, in + sent, whole - sent);
			if (w <= 0)
				return 1;
			sent += w;
		}
		memmove(in, in + whole, have - whole);
		have -= whole;
	}
}
