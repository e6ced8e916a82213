/* The eight programs of netagent/datapath/sockets/programs.py once more, in C, for readers. Nothing of it is shipped:
 * tests/kernel/test_c_twin.py compiles it, and compares what it does with what ours do.
 *
 * Without headers, so that a compiler is all that it takes. Structures and numbers: <linux/bpf.h>, bpf-helpers(7). */

typedef unsigned char u8;
typedef unsigned short u16, be16;
typedef unsigned int u32, be32;
typedef unsigned long long u64;

struct bpf_sock_addr {
	u32 user_family;
	be32 user_ip4;
	be32 user_ip6[4];
	u32 user_port; /* a be16 */
	u32 family;
	u32 type;
	u32 protocol;
	be32 msg_src_ip4;
	be32 msg_src_ip6[4];
	void *sk; /* at byte 64 */
};

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static u32 (*const random_u32)(void) = (void *)7;
static u64 (*const socket_cookie)(void *ctx) = (void *)46;
static void *(*const socket_storage)(void *map, void *sk, void *value, u64 flags) = (void *)107;
static u64 (*const netns_cookie)(void *ctx) = (void *)122;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define PLACES 64
#define ORIGINS 4
#define TCP 6
#define UDP 17
#define CREATE 1

/* Flags of a service. */
#define STICKY 1
#define HAS_PORTS 2

struct head { u32 network; u16 count, flags; };
struct service4 { struct head head; be32 place[PLACES]; };
struct service6 { struct head head; struct { be32 a[4]; } place[PLACES]; };
struct end { be32 a[4]; be16 port, zero; };
struct member { u64 cookie; u32 network, zero; };
struct origins { u32 next; struct { struct end backend, service; } at[ORIGINS]; };

/* Names that the loader replaces by the maps of that name. */
struct map { u32 nothing; };
struct map netagent_svc4 SEC(".maps"), netagent_svc6 SEC(".maps"), netagent_ports SEC(".maps"),
	netagent_users SEC(".maps"), netagent_origin SEC(".maps");

static const be32 mapped_word = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 0xffff0000 : 0x0000ffff;

enum outcome { GO_ON, LED, REFUSED };

INLINE int same(const struct end *x, const struct end *y)
{
	return x->port == y->port && x->a[3] == y->a[3] && x->a[2] == y->a[2] && x->a[1] == y->a[1] &&
	       x->a[0] == y->a[0];
}

/* Which place, and which port there. */
INLINE enum outcome choose(struct bpf_sock_addr *ctx, struct head *service, struct end *asked, int is_datagram,
			   u32 *place, be16 *port, u8 **marks)
{
	struct member member = { .cookie = netns_cookie(ctx), .network = service->network };
	u32 number;

	*marks = map_lookup(&netagent_users, &member);
	if (!*marks)
		return GO_ON;
	if (ctx->protocol != TCP && ctx->protocol != UDP)
		return GO_ON;
	*port = asked->port;
	if (service->flags & HAS_PORTS) {
		be16 *target = map_lookup(&netagent_ports, asked);
		if (!target)
			return REFUSED;
		*port = *target;
	}
	if (!service->count)
		return REFUSED;
	if (service->flags & STICKY)
		number = (u32)member.cookie * 2654435761u >> 16;
	else if (is_datagram)
		number = (u32)socket_cookie(ctx) * 2654435761u >> 16;
	else
		number = random_u32();
	*place = number % service->count;
	return *place < PLACES ? LED : GO_ON;
}

/* That the namespace was led to this backend. */
INLINE void mark(u8 *marks, u32 hash)
{
	u8 *one = marks + (hash * 2654435761u >> 24);

	if (!*one)
		*one = 1;
}

INLINE void remember(struct bpf_sock_addr *ctx, const struct end *backend, const struct end *service)
{
	struct origins *origins;
	u32 next;

	if (!ctx->sk)
		return;
	origins = socket_storage(&netagent_origin, ctx->sk, 0, CREATE);
	if (!origins)
		return;
	for (int i = 0; i < ORIGINS; i++)
		if (same(&origins->at[i].backend, backend)) {
			origins->at[i].service = *service;
			return;
		}
	next = origins->next < ORIGINS ? origins->next : 0;
	origins->at[next].backend = *backend;
	origins->at[next].service = *service;
	origins->next = (next + 1) % ORIGINS;
}

INLINE int refuse(struct bpf_sock_addr *ctx, int is_datagram)
{
	if (is_datagram)
		return 0;
	ctx->user_port = 0;
	return 1;
}

INLINE int lead4(struct bpf_sock_addr *ctx, be32 address, be32 *field, int is_datagram)
{
	struct end asked = { { 0, 0, mapped_word, address }, ctx->user_port }, backend = { { 0, 0, mapped_word } };
	struct service4 *service = map_lookup(&netagent_svc4, &address);
	enum outcome outcome;
	u32 place;
	u8 *marks;

	if (!service)
		return 1;
	outcome = choose(ctx, &service->head, &asked, is_datagram, &place, &backend.port, &marks);
	if (outcome == REFUSED)
		return refuse(ctx, is_datagram);
	if (outcome == GO_ON || place >= PLACES)
		return 1;
	backend.a[3] = service->place[place];
	if (field)
		*(volatile be32 *)field = backend.a[3];
	else
		ctx->user_ip4 = backend.a[3];
	ctx->user_port = backend.port;
	mark(marks, backend.a[3]);
	remember(ctx, &backend, &asked);
	return 1;
}

INLINE int lead6(struct bpf_sock_addr *ctx, int is_datagram)
{
	struct end asked = { { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] },
			     ctx->user_port },
		   backend = {};
	struct service6 *service;
	enum outcome outcome;
	u32 place;
	u8 *marks;

	if (!is_datagram && !asked.a[0] && !asked.a[1] && asked.a[2] == mapped_word)
		return lead4(ctx, asked.a[3], &ctx->user_ip6[3], is_datagram);
	service = map_lookup(&netagent_svc6, asked.a);
	if (!service)
		return 1;
	outcome = choose(ctx, &service->head, &asked, is_datagram, &place, &backend.port, &marks);
	if (outcome == REFUSED)
		return refuse(ctx, is_datagram);
	if (outcome == GO_ON || place >= PLACES)
		return 1;
	__builtin_memcpy(backend.a, &service->place[place], sizeof(backend.a));
	ctx->user_ip6[0] = backend.a[0];
	ctx->user_ip6[1] = backend.a[1];
	ctx->user_ip6[2] = backend.a[2];
	ctx->user_ip6[3] = backend.a[3];
	ctx->user_port = backend.port;
	mark(marks, backend.a[0] ^ backend.a[1] ^ backend.a[2] ^ backend.a[3]);
	remember(ctx, &backend, &asked);
	return 1;
}

INLINE struct end *service_of(struct bpf_sock_addr *ctx, const struct end *backend)
{
	struct origins *origins;

	if (!ctx->sk)
		return 0;
	origins = socket_storage(&netagent_origin, ctx->sk, 0, 0);
	if (!origins)
		return 0;
	for (int i = 0; i < ORIGINS; i++)
		if (same(&origins->at[i].backend, backend))
			return &origins->at[i].service;
	return 0;
}

INLINE int name4(struct bpf_sock_addr *ctx)
{
	struct end backend = { { 0, 0, mapped_word, ctx->user_ip4 }, ctx->user_port };
	struct end *service = service_of(ctx, &backend);

	if (service) {
		ctx->user_ip4 = service->a[3];
		ctx->user_port = service->port;
	}
	return 1;
}

INLINE int name6(struct bpf_sock_addr *ctx)
{
	struct end backend = { { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] },
			       ctx->user_port };
	struct end *service = service_of(ctx, &backend);

	if (service) {
		ctx->user_ip6[0] = service->a[0];
		ctx->user_ip6[1] = service->a[1];
		ctx->user_ip6[2] = service->a[2];
		ctx->user_ip6[3] = service->a[3];
		ctx->user_port = service->port;
	}
	return 1;
}

SEC("cgroup/connect4") int connect4(struct bpf_sock_addr *ctx) { return lead4(ctx, ctx->user_ip4, 0, 0); }
SEC("cgroup/connect6") int connect6(struct bpf_sock_addr *ctx) { return lead6(ctx, 0); }
SEC("cgroup/sendmsg4") int sendmsg4(struct bpf_sock_addr *ctx) { return lead4(ctx, ctx->user_ip4, 0, 1); }
SEC("cgroup/sendmsg6") int sendmsg6(struct bpf_sock_addr *ctx) { return lead6(ctx, 1); }
SEC("cgroup/recvmsg4") int recvmsg4(struct bpf_sock_addr *ctx) { return name4(ctx); }
SEC("cgroup/recvmsg6") int recvmsg6(struct bpf_sock_addr *ctx) { return name6(ctx); }
SEC("cgroup/getpeername4") int getpeername4(struct bpf_sock_addr *ctx) { return name4(ctx); }
SEC("cgroup/getpeername6") int getpeername6(struct bpf_sock_addr *ctx) { return name6(ctx); }
