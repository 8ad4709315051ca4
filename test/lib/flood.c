// SPDX-License-Identifier: Apache-2.0
/*
 * New flows and nothing else: flood INTERFACE TARGET-MAC ADDRESS PORT KIND COUNT RATE [SOURCE] sends COUNT frames, RATE a
 * second (0: as fast as it goes), each from another port, and from SOURCE or another address of 198.18.0.0/15 (RFC 2544).
 * KIND is syn or udp.
 * Prints how many went out, and how long it took in ms. For namespaces of a test only.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 32

struct __attribute__((packed)) frame {
	struct ether_header ethernet;
	struct iphdr ip;
	union {
		struct tcphdr tcp;
		struct udphdr udp;
	};
};

static uint32_t state = 2463534242u;

static uint32_t next_random(void)
{
	state ^= state << 13;
	state ^= state >> 17;
	state ^= state << 5;
	return state;
}

static uint16_t folded(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static uint32_t words(const void *data, int length)
{
	const uint8_t *bytes = data;
	uint32_t sum = 0;

	for (int i = 0; i < length; i += 2)
		sum += bytes[i] << 8 | bytes[i + 1];
	return sum;
}

static long now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

int main(int argc, char **argv)
{
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_halen = 6 };
	static struct frame frames[BATCH];
	struct mmsghdr messages[BATCH] = { 0 };
	struct iovec parts[BATCH];
	int fd = socket(AF_PACKET, SOCK_RAW, 0), syn, transport, length, one = 1;
	long count, rate, sent = 0, began;
	in_addr_t source = 0;

	if (argc != 8 && argc != 9) {
		fputs("usage: flood INTERFACE TARGET-MAC ADDRESS PORT KIND COUNT RATE [SOURCE]\n", stderr);
		return 2;
	}
	to.sll_ifindex = if_nametoindex(argv[1]);
	syn = !strcmp(argv[5], "syn");
	count = atol(argv[6]);
	rate = atol(argv[7]);
	if (argc == 9)
		inet_pton(AF_INET, argv[8], &source);
	transport = syn ? sizeof(struct tcphdr) : sizeof(struct udphdr);
	length = sizeof(struct ether_header) + sizeof(struct iphdr) + transport;
	setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof(one));
	for (int i = 0; i < BATCH; i++) {
		struct frame *f = &frames[i];

		sscanf(argv[2], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &f->ethernet.ether_dhost[0], &f->ethernet.ether_dhost[1],
		       &f->ethernet.ether_dhost[2], &f->ethernet.ether_dhost[3], &f->ethernet.ether_dhost[4],
		       &f->ethernet.ether_dhost[5]);
		f->ethernet.ether_shost[0] = 2;
		f->ethernet.ether_type = htons(ETHERTYPE_IP);
		f->ip = (struct iphdr){ .version = 4, .ihl = 5, .ttl = 64, .protocol = syn ? IPPROTO_TCP : IPPROTO_UDP,
					.tot_len = htons(sizeof(struct iphdr) + transport) };
		inet_pton(AF_INET, argv[3], &f->ip.daddr);
		if (syn)
			f->tcp = (struct tcphdr){ .doff = 5, .syn = 1, .window = htons(64240) };
		else
			f->udp.len = htons(transport);
		/* Destination ports lie at the same place. */
		f->udp.dest = htons(atoi(argv[4]));
		parts[i] = (struct iovec){ f, length };
		messages[i].msg_hdr = (struct msghdr){ .msg_name = &to, .msg_namelen = sizeof(to), .msg_iov = &parts[i],
						       .msg_iovlen = 1 };
	}
	began = now_us();
	while (sent < count) {
		int batch = count - sent < BATCH ? count - sent : BATCH, done;

		for (int i = 0; i < batch; i++) {
			struct frame *f = &frames[i];
			uint16_t *sum = (void *)((char *)&f->tcp + (syn ? 16 : 6));

			f->ip.saddr = source ? source : htonl(0xc6120000 | (next_random() & 0x1ffff));
			f->udp.source = htons(1024 + next_random() % 64000);
			if (syn)
				f->tcp.seq = next_random();
			f->ip.check = 0;
			f->ip.check = htons(folded(words(&f->ip, sizeof(f->ip))));
			*sum = 0;
			*sum = htons(folded(words(&f->ip.saddr, 8) + f->ip.protocol + transport + words(&f->tcp, transport)));
		}
		done = sendmmsg(fd, messages, batch, 0);
		if (done < 0 && errno != ENOBUFS) {
			perror("sendmmsg");
			return 1;
		}
		if (done > 0)
			sent += done;
		if (rate) {
			long ahead = began + sent * 1000000 / rate - now_us();

			if (ahead > 500) {
				struct timespec pause = { .tv_sec = ahead / 1000000, .tv_nsec = ahead % 1000000 * 1000 };

				nanosleep(&pause, NULL);
			}
		}
	}
	printf("%ld %ld\n", sent, (now_us() - began) / 1000);
	return 0;
}
