// SPDX-License-Identifier: Apache-2.0
/*
 * Very many clients of a Service, each of which asks once:
 *
 *   askers INTERFACE TARGET-MAC VIP PORT COUNT RATE SECONDS
 *
 * sends COUNT datagrams, RATE a second, each from another address and port of 198.18.0.0/15 (RFC 2544) with a number in
 * it; who has no answer after 3 s asks again. Looks at what comes back for so long: an answer has to come from the VIP,
 * to who asked, with the number. Prints JSON. And a server that keeps people waiting:
 *
 *   askers serve PORT SECONDS
 *
 * answers each datagram with itself after so long, from the address that was asked. IPv4; for namespaces of a test only.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define AGAIN_MS 3000
#define BUFFER (64 << 20)

struct __attribute__((packed)) frame {
	struct ether_header ethernet;
	struct iphdr ip;
	struct udphdr udp;
	uint32_t number;
};

static long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000L + t.tv_nsec / 1000000;
}

static uint16_t folded(const void *data, int length)
{
	const uint8_t *bytes = data;
	uint32_t sum = 0;

	for (int i = 0; i < length; i += 2)
		sum += bytes[i] << 8 | bytes[i + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons(~sum);
}

/* Neighbours differ in address and port, so that no two have the same. */
static uint32_t address_of(uint32_t number)
{
	return htonl(0xc6120000 | (number & 0x1ff) << 8 | 7);
}

static uint16_t port_of(uint32_t number)
{
	return htons(1024 + (number >> 9) + (number & 0x1ff) * 61);
}

static void widen(int fd)
{
	int size = BUFFER;

	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
}

static int ask(char **argv)
{
	long count = atol(argv[5]), rate = atol(argv[6]), seconds = atol(argv[7]);
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_halen = 6, .sll_protocol = htons(ETH_P_IP) };
	int fd = socket(AF_PACKET, SOCK_RAW, 0);
	char *answered = calloc(count, 1);
	long *asked = calloc(count, sizeof(*asked));
	long next = 0, repeated = 0, right = 0, wrong = 0, twice = 0, began, again = 0;
	char first[160] = "";
	struct frame f = {
		.ip = { .version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP,
			.tot_len = htons(sizeof(f) - sizeof(f.ethernet)) },
		.udp = { .len = htons(sizeof(f.udp) + sizeof(f.number)), .dest = htons(atoi(argv[4])) },
	};

	sscanf(argv[2], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &f.ethernet.ether_dhost[0], &f.ethernet.ether_dhost[1],
	       &f.ethernet.ether_dhost[2], &f.ethernet.ether_dhost[3], &f.ethernet.ether_dhost[4],
	       &f.ethernet.ether_dhost[5]);
	f.ethernet.ether_shost[0] = 2;
	f.ethernet.ether_type = htons(ETHERTYPE_IP);
	inet_pton(AF_INET, argv[3], &f.ip.daddr);
	to.sll_ifindex = if_nametoindex(argv[1]);
	widen(fd);
	if (bind(fd, (void *)&to, sizeof(to))) {
		perror("bind");
		return 1;
	}
	began = now_ms();
	while (now_ms() - began < seconds * 1000 && right < count) {
		struct frame got;
		long ms = now_ms() - began, number = -1;
		int idle = 1;

		/* A new one where it is time to, else who waits in vain. */
		if (next < count && next < ms * rate / 1000)
			number = next++;
		else
			for (int look = 0; look < 64 && number < 0; look++, again = (again + 1) % count)
				if (again < next && !answered[again] && ms - asked[again] > AGAIN_MS) {
					number = again;
					repeated++;
				}
		if (number >= 0) {
			f.ip.saddr = address_of(number);
			f.ip.check = 0;
			f.ip.check = folded(&f.ip, sizeof(f.ip));
			f.udp.source = port_of(number);
			f.number = htonl(number);
			asked[number] = ms;
			if (send(fd, &f, sizeof(f), MSG_DONTWAIT) < 0)
				asked[number] = ms - AGAIN_MS;
			idle = 0;
		}
		for (int i = 0; i < 64; i++) {
			struct sockaddr_ll from;
			socklen_t size = sizeof(from);

			if (recvfrom(fd, &got, sizeof(got), MSG_DONTWAIT, (void *)&from, &size) < (long)sizeof(got))
				break;
			idle = 0;
			if (from.sll_pkttype == PACKET_OUTGOING || got.ip.protocol != IPPROTO_UDP)
				continue;
			number = ntohl(got.number);
			if (number >= count || got.ip.saddr != f.ip.daddr || got.udp.source != f.udp.dest ||
			    got.ip.daddr != address_of(number) || got.udp.dest != port_of(number)) {
				struct in_addr a = { got.ip.saddr };

				if (!wrong++)
					snprintf(first, sizeof(first), "from %s:%d at %ld ms", inet_ntoa(a),
						 ntohs(got.udp.source), ms);
			} else if (answered[number]) {
				twice++;
			} else {
				answered[number] = 1;
				right++;
			}
		}
		if (idle)
			usleep(500);
	}
	printf("{\"asked\":%ld,\"repeated\":%ld,\"right\":%ld,\"twice\":%ld,\"wrong\":%ld,\"firstWrong\":\"%s\",\"ms\":%ld}\n", next,
	       repeated, right, twice, wrong, first, now_ms() - began);
	return 0;
}

struct held {
	struct sockaddr_in from;
	struct in_addr asked;
	uint32_t number;
	long since;
};

/* A datagram with the address that it came to, or is to leave from. */
struct letter {
	struct msghdr header;
	struct iovec text;
	char control[CMSG_SPACE(sizeof(struct in_pktinfo))];
};

static struct msghdr *letter_of(struct letter *l, struct held *h)
{
	memset(l, 0, sizeof(*l));
	l->text = (struct iovec){ &h->number, sizeof(h->number) };
	l->header = (struct msghdr){ .msg_name = &h->from, .msg_namelen = sizeof(h->from), .msg_iov = &l->text,
				     .msg_iovlen = 1, .msg_control = l->control, .msg_controllen = sizeof(l->control) };
	return &l->header;
}

static long take(int fd, struct held *h)
{
	struct letter l;
	long length = recvmsg(fd, letter_of(&l, h), MSG_DONTWAIT);
	struct cmsghdr *c;

	for (c = length > 0 ? CMSG_FIRSTHDR(&l.header) : NULL; c; c = CMSG_NXTHDR(&l.header, c))
		if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO)
			h->asked = ((struct in_pktinfo *)CMSG_DATA(c))->ipi_addr;
	return length;
}

static void give(int fd, struct held *h)
{
	struct in_pktinfo *info;
	struct cmsghdr *c;
	struct letter l;

	letter_of(&l, h);
	c = CMSG_FIRSTHDR(&l.header);
	*c = (struct cmsghdr){ CMSG_LEN(sizeof(*info)), IPPROTO_IP, IP_PKTINFO };
	info = (void *)CMSG_DATA(c);
	info->ipi_spec_dst = h->asked;
	sendmsg(fd, &l.header, 0);
}

static int serve(const char *port, const char *seconds)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };
	enum { MOST = 1 << 20 };
	struct held *all = calloc(MOST, sizeof(*all));
	long wait = atol(seconds) * 1000, first = 0, last = 0;
	int fd = socket(AF_INET, SOCK_DGRAM, 0), on = 1;

	widen(fd);
	setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on));
	if (bind(fd, (void *)&any, sizeof(any))) {
		perror("serve");
		return 1;
	}
	puts("ready");
	fflush(stdout);
	for (;;) {
		struct held *h = &all[last % MOST];
		int idle = 1;

		if (last - first < MOST && take(fd, h) > 0) {
			h->since = now_ms();
			last++;
			idle = 0;
		}
		if (first < last && now_ms() - all[first % MOST].since >= wait) {
			h = &all[first++ % MOST];
			give(fd, h);
			idle = 0;
		}
		if (idle)
			usleep(500);
	}
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "serve"))
		return serve(argv[2], argv[3]);
	if (argc != 8)
		return 2;
	return ask(argv);
}
