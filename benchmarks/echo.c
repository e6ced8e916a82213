/* The server and the clients of services.py, in C because a call of an interpreter takes as long as what is measured.

       echo serve PORT                              TCP and UDP, IPv4 and IPv6: sends back what comes
       echo connect|tcp|udp|connected-udp ADDRESS PORT SECONDS
                                                    repeats one operation; prints nanoseconds per operation, of the
                                                    clock and of this process's processor time
       echo wait ADDRESS PORT                       connects, prints "ready", and when the connection ends the time of
                                                    the monotonic clock in seconds and the error
*/
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 8, BACKLOG = 4096, EVENTS = 64, ANSWER_S = 2 };

static struct sockaddr_storage peer;
static socklen_t peer_size;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static double clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e9 + now.tv_nsec;
}

static double processor_ns(void)
{
	struct rusage used;

	getrusage(RUSAGE_SELF, &used);
	return (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e9 + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e3;
}

static int bound(int kind, int port)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int one = 1, fd = socket(AF_INET6, kind | SOCK_NONBLOCK, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, (void *)&any, sizeof any))
		fail("bind");
	return fd;
}

static void watch(int poll, int fd)
{
	struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };

	if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event))
		fail("epoll_ctl");
}

static void serve(int port)
{
	int listener = bound(SOCK_STREAM, port), datagrams = bound(SOCK_DGRAM, port), poll = epoll_create1(0), one = 1;
	struct epoll_event events[EVENTS];
	char data[65536];

	if (listen(listener, BACKLOG))
		fail("listen");
	watch(poll, listener);
	watch(poll, datagrams);
	puts("ready");
	fflush(stdout);
	for (;;) {
		int count = epoll_wait(poll, events, EVENTS, -1);

		for (int i = 0; i < count; i++) {
			int fd = events[i].data.fd;

			if (fd == listener) {
				while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
					setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
					watch(poll, fd);
				}
			} else if (fd == datagrams) {
				struct sockaddr_in6 from;
				socklen_t size = sizeof from;
				ssize_t got;

				while ((got = recvfrom(fd, data, sizeof data, 0, (void *)&from, &size)) >= 0)
					sendto(fd, data, got, 0, (void *)&from, size);
			} else {
				ssize_t got = read(fd, data, sizeof data);

				if (got <= 0 || write(fd, data, got) != got)
					close(fd);
			}
		}
	}
}

static int opened(int kind)
{
	struct timeval limit = { .tv_sec = ANSWER_S };
	int one = 1, fd = socket(peer.ss_family, kind, 0);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	if (kind == SOCK_STREAM)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return fd;
}

static int connected(int kind)
{
	int fd = opened(kind);

	if (connect(fd, (void *)&peer, peer_size))
		fail("connect");
	return fd;
}

/* The reset that follows leaves no connection in TIME_WAIT, which would use up the ports. */
static void connect_and_close(int unused)
{
	struct linger at_once = { .l_onoff = 1 };
	int fd = connected(SOCK_STREAM);

	(void)unused;
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
	close(fd);
}

static void exchange(int fd)
{
	char octet = 'x';

	if (send(fd, &octet, 1, 0) != 1)
		fail("send");
	if (recv(fd, &octet, 1, 0) != 1)
		fail("recv");
}

static void exchange_by_address(int fd)
{
	struct sockaddr_storage from;
	socklen_t size = sizeof from;
	char octet = 'x';

	if (sendto(fd, &octet, 1, 0, (void *)&peer, peer_size) != 1)
		fail("sendto");
	if (recvfrom(fd, &octet, 1, 0, (void *)&from, &size) != 1)
		fail("recvfrom");
}

static void repeat(void (*operation)(int), int fd, double seconds)
{
	long done = 0;
	double began = clock_ns(), worked = processor_ns();

	while (clock_ns() - began < seconds * 1e9)
		for (int i = 0; i < BATCH; i++, done++)
			operation(fd);
	printf("%.1f %.1f\n", (clock_ns() - began) / done, (processor_ns() - worked) / done);
}

static void await_end(void)
{
	struct timeval none = { 0 };
	int fd = connected(SOCK_STREAM);
	char octet;
	ssize_t got;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none);
	puts("ready");
	fflush(stdout);
	got = recv(fd, &octet, 1, 0);
	printf("%.6f %s\n", clock_ns() / 1e9, got < 0 ? strerror(errno) : "no error");
}

static void find_peer(const char *address, int port)
{
	struct sockaddr_in *four = (void *)&peer;
	struct sockaddr_in6 *six = (void *)&peer;

	if (inet_pton(AF_INET, address, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons(port);
		peer_size = sizeof *four;
	} else if (inet_pton(AF_INET6, address, &six->sin6_addr) == 1) {
		six->sin6_family = AF_INET6;
		six->sin6_port = htons(port);
		peer_size = sizeof *six;
	} else {
		fprintf(stderr, "%s is no address\n", address);
		exit(2);
	}
}

int main(int count, char **words)
{
	const char *what = count > 2 ? words[1] : "";
	double seconds = count > 4 ? atof(words[4]) : 0;

	if (count == 3 && !strcmp(what, "serve"))
		serve(atoi(words[2]));
	if (count < 4)
		return 2;
	find_peer(words[2], atoi(words[3]));
	if (!strcmp(what, "wait"))
		await_end();
	else if (!strcmp(what, "connect"))
		repeat(connect_and_close, -1, seconds);
	else if (!strcmp(what, "tcp"))
		repeat(exchange, connected(SOCK_STREAM), seconds);
	else if (!strcmp(what, "udp"))
		repeat(exchange_by_address, opened(SOCK_DGRAM), seconds);
	else if (!strcmp(what, "connected-udp"))
		repeat(exchange, connected(SOCK_DGRAM), seconds);
	else
		return 2;
	return 0;
}
